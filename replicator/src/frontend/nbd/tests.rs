use super::*;

const SIZE: u64 = 1 << 20;

/// A server whose guest calls are handed to the test.
fn server() -> (
    tempfile::TempDir,
    std::path::PathBuf,
    mpsc::Receiver<GuestCall>,
    JoinSet<()>,
) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nbd");
    let (guests, calls) = mpsc::channel(16);
    let export = Export {
        name: "ns_qm1".into(),
        size: SIZE,
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(bind(&path).unwrap(), export, guests));
    (dir, path, calls, tasks)
}

async fn greet(path: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(path).await.unwrap();
    assert_eq!(stream.read_u64().await.unwrap(), 0x4e42_444d_4147_4943);
    stream.read_u64().await.unwrap();
    assert_eq!(stream.read_u16().await.unwrap(), 3);
    stream.write_u32(3).await.unwrap();
    stream
}

async fn option(stream: &mut UnixStream, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
    stream.write_all(b"IHAVEOPT").await.unwrap();
    stream.write_u32(option).await.unwrap();
    stream.write_u32(data.len() as u32).await.unwrap();
    stream.write_all(data).await.unwrap();
    let mut replies = Vec::new();
    loop {
        stream.read_u64().await.unwrap();
        assert_eq!(stream.read_u32().await.unwrap(), option);
        let kind = stream.read_u32().await.unwrap();
        let mut body = vec![0; stream.read_u32().await.unwrap() as usize];
        stream.read_exact(&mut body).await.unwrap();
        replies.push((kind, body));
        if kind == 1 || kind >= 1 << 31 {
            return replies;
        }
    }
}

async fn request(
    stream: &mut UnixStream,
    flags: u16,
    kind: u16,
    offset: u64,
    len: u32,
    data: &[u8],
) {
    stream.write_u32(REQUEST_MAGIC).await.unwrap();
    stream.write_u16(flags).await.unwrap();
    stream.write_u16(kind).await.unwrap();
    stream.write_u64(77).await.unwrap();
    stream.write_u64(offset).await.unwrap();
    stream.write_u32(len).await.unwrap();
    stream.write_all(data).await.unwrap();
}

async fn simple_reply(stream: &mut UnixStream, len: usize) -> (u32, Vec<u8>) {
    assert_eq!(stream.read_u32().await.unwrap(), REPLY_MAGIC);
    let error = stream.read_u32().await.unwrap();
    assert_eq!(stream.read_u64().await.unwrap(), 77);
    let mut data = vec![0; if error == 0 { len } else { 0 }];
    stream.read_exact(&mut data).await.unwrap();
    (error, data)
}

#[tokio::test]
async fn a_client_lists_chooses_writes_and_reads() {
    let (_dir, path, mut calls, _tasks) = server();
    let mut stream = greet(&path).await;
    let listed = option(&mut stream, 3, &[]).await;
    assert_eq!(&listed[0].1[4..], b"ns_qm1");
    assert_eq!(option(&mut stream, 8, &[]).await[0].0, 1 << 31 | 1);
    assert_eq!(
        option(&mut stream, 7, b"\0\0\0\x05other\0\0").await[0].0,
        1 << 31 | 6
    );
    assert_eq!(
        option(&mut stream, 7, b"\0\0\0\xffx").await[0].0,
        1 << 31 | 3
    );
    let chosen = option(&mut stream, 7, b"\0\0\0\x06ns_qm1\0\0").await;
    assert_eq!(chosen[0].1[2..10], SIZE.to_be_bytes());

    request(&mut stream, 1, 1, 4096, 512, &[9; 512]).await;
    let call = calls.recv().await.unwrap();
    let expected = GuestRequest::Write {
        offset: 4096,
        data: vec![9; 512].into(),
        fua: true,
    };
    assert_eq!(call.request, expected);
    call.reply.complete(Completion::Done);
    assert_eq!(simple_reply(&mut stream, 0).await.0, 0);

    request(&mut stream, 0, 0, 4096, 512, &[]).await;
    let call = calls.recv().await.unwrap();
    call.reply.complete(Completion::Data(vec![9; 512].into()));
    assert_eq!(simple_reply(&mut stream, 512).await, (0, vec![9; 512]));
}

#[tokio::test]
async fn requests_outside_the_volume_never_reach_the_engine() {
    let (_dir, path, mut calls, _tasks) = server();
    let mut stream = greet(&path).await;
    option(&mut stream, 7, b"\0\0\0\0\0\0").await;
    for (kind, offset, len) in [
        (0, SIZE, 512),
        (1, SIZE - 512, 1024),
        (1, 100, 512),
        (4, 0, 100),
        (9, 0, 512),
    ] {
        let data = if kind == 1 {
            vec![1; len as usize]
        } else {
            Vec::new()
        };
        request(&mut stream, 0, kind, offset, len, &data).await;
        assert_eq!(simple_reply(&mut stream, 0).await.0, EINVAL);
    }
    request(&mut stream, 0, 1, 0, 2 << 20, &vec![1; 2 << 20]).await;
    assert_eq!(simple_reply(&mut stream, 0).await.0, EINVAL);
    assert!(calls.try_recv().is_err());
}

#[tokio::test]
async fn zeroes_with_fua_are_flushed_before_the_answer() {
    let (_dir, path, mut calls, _tasks) = server();
    let mut stream = greet(&path).await;
    option(&mut stream, 7, b"\0\0\0\0\0\0").await;
    request(&mut stream, 1, 6, 0, 4096, &[]).await;
    let zero = calls.recv().await.unwrap();
    assert_eq!(
        zero.request,
        GuestRequest::Zero {
            offset: 0,
            len: 4096
        }
    );
    zero.reply.complete(Completion::Done);
    let flush = calls.recv().await.unwrap();
    assert_eq!(flush.request, GuestRequest::Flush);
    flush.reply.complete(Completion::Done);
    assert_eq!(simple_reply(&mut stream, 0).await.0, 0);
}
