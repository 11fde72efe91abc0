//! The NBD handshake: fixed newstyle, options until the client chooses the export.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{Export, MAX_WRITE};

const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

const HANDSHAKE_FLAGS: u16 = FIXED_NEWSTYLE | NO_ZEROES;
const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;

/// HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, CAN_MULTI_CONN.
const TRANSMISSION_FLAGS: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 8;

const OPT_EXPORT_NAME: u32 = 1;
const OPT_ABORT: u32 = 2;
const OPT_LIST: u32 = 3;
const OPT_INFO: u32 = 6;
const OPT_GO: u32 = 7;

const REP_ACK: u32 = 1;
const REP_SERVER: u32 = 2;
const REP_INFO: u32 = 3;
const REP_ERR_UNSUP: u32 = 1 << 31 | 1;
const REP_ERR_INVALID: u32 = 1 << 31 | 3;
const REP_ERR_UNKNOWN: u32 = 1 << 31 | 6;

const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

/// Longest option a client may send.
const MAX_OPTION: u32 = 8192;

/// Returns whether transmission follows.
pub(super) async fn negotiate(stream: &mut UnixStream, export: &Export) -> io::Result<bool> {
    let mut greeting = Vec::new();
    greeting.extend(MAGIC.to_be_bytes());
    greeting.extend(OPTION_MAGIC.to_be_bytes());
    greeting.extend(HANDSHAKE_FLAGS.to_be_bytes());
    stream.write_all(&greeting).await?;
    let client_flags = stream.read_u32().await?;
    loop {
        if stream.read_u64().await? != OPTION_MAGIC {
            return Err(io::Error::other("bad option magic"));
        }
        let option = stream.read_u32().await?;
        let len = stream.read_u32().await?;
        if len > MAX_OPTION {
            return Err(io::Error::other("an option that is too long"));
        }
        let mut data = vec![0; len as usize];
        stream.read_exact(&mut data).await?;
        match option {
            OPT_EXPORT_NAME => {
                if !names(export, &data) {
                    return Err(io::Error::other("unknown export"));
                }
                let mut answer = export.size.to_be_bytes().to_vec();
                answer.extend(TRANSMISSION_FLAGS.to_be_bytes());
                if client_flags & u32::from(NO_ZEROES) == 0 {
                    answer.resize(answer.len() + 124, 0);
                }
                stream.write_all(&answer).await?;
                return Ok(true);
            }
            OPT_ABORT => {
                reply(stream, option, REP_ACK, &[]).await?;
                return Ok(false);
            }
            OPT_LIST => {
                let mut entry = (export.name.len() as u32).to_be_bytes().to_vec();
                entry.extend(export.name.as_bytes());
                reply(stream, option, REP_SERVER, &entry).await?;
                reply(stream, option, REP_ACK, &[]).await?;
            }
            OPT_INFO | OPT_GO => match export_name(&data) {
                None => reply(stream, option, REP_ERR_INVALID, &[]).await?,
                Some(name) if !names(export, name) => {
                    reply(stream, option, REP_ERR_UNKNOWN, &[]).await?;
                }
                Some(_) => {
                    describe(stream, option, export).await?;
                    reply(stream, option, REP_ACK, &[]).await?;
                    if option == OPT_GO {
                        return Ok(true);
                    }
                }
            },
            _ => reply(stream, option, REP_ERR_UNSUP, &[]).await?,
        }
    }
}

/// The default export is the only one.
fn names(export: &Export, name: &[u8]) -> bool {
    name.is_empty() || name == export.name.as_bytes()
}

/// The name in the data of INFO and GO: length, name, count of information requests, requests.
fn export_name(data: &[u8]) -> Option<&[u8]> {
    let (len, rest) = data.split_first_chunk::<4>()?;
    let (name, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    let (count, requests) = rest.split_first_chunk::<2>()?;
    (requests.len() == usize::from(u16::from_be_bytes(*count)) * 2).then_some(name)
}

async fn describe(stream: &mut UnixStream, option: u32, export: &Export) -> io::Result<()> {
    let mut info = INFO_EXPORT.to_be_bytes().to_vec();
    info.extend(export.size.to_be_bytes());
    info.extend(TRANSMISSION_FLAGS.to_be_bytes());
    reply(stream, option, REP_INFO, &info).await?;
    let mut sizes = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
    for size in [super::super::SECTOR as u32, 4096, MAX_WRITE as u32] {
        sizes.extend(size.to_be_bytes());
    }
    reply(stream, option, REP_INFO, &sizes).await
}

async fn reply(stream: &mut UnixStream, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let mut message = REPLY_MAGIC.to_be_bytes().to_vec();
    message.extend(option.to_be_bytes());
    message.extend(kind.to_be_bytes());
    message.extend((data.len() as u32).to_be_bytes());
    message.extend(data);
    stream.write_all(&message).await
}
