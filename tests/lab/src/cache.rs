//! The folder outside the checkout where everything that was built once is kept.
//!
//! ```text
//! ${XDG_CACHE_HOME:-~/.cache}/drqm-lab/
//!   kubernetes-1.37.1/ etcd-… nats-server-…    complete builds, named by version
//!   images/                                    container images as tar files
//!   state/                                     the running lab (see `state`)
//!   *.lock                                     advisory locks; the holder's name is their content
//! ```
//! A build happens under a temporary name and gets its own by a rename when it is complete. So a
//! folder that is there is complete, whatever was killed meanwhile.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::await_value;
use crate::progress::Progress;

/// How long one build waits for another one: longer than everything built from nothing.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// The cache folder.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens the default cache, `${XDG_CACHE_HOME:-~/.cache}/drqm-lab`.
    ///
    /// # Errors
    /// When neither variable is set or the folder cannot be made.
    pub fn open() -> Result<Self> {
        let base = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|p| p.is_absolute());
        let base = base.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
        Self::at(
            base.context("neither XDG_CACHE_HOME nor HOME is set")?
                .join("drqm-lab"),
        )
    }

    /// Opens a cache in a folder of one's choice.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn at(root: PathBuf) -> Result<Self> {
        // It becomes part of PATH, of generated scripts and of mount commands.
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
        if !root.to_str().is_some_and(|text| text.chars().all(plain)) {
            bail!(
                "the cache's path {} holds characters that PATH and shell scripts cannot; \
                 set XDG_CACHE_HOME to a plain one",
                root.display()
            );
        }
        fs::create_dir_all(&root)
            .with_context(|| format!("cannot make the cache {}", root.display()))?;
        let root = root
            .canonicalize()
            .with_context(|| root.display().to_string())?;
        Ok(Self { root })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A folder or file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Whether a build of this key is complete.
    pub fn has(&self, key: &str) -> bool {
        self.path(key).is_dir()
    }

    /// Returns the folder of a key, and builds it first if it is not there.
    ///
    /// `build` gets an empty folder to fill. Two builds at once, in two processes too: the second waits
    /// and finds the result of the first.
    ///
    /// # Errors
    /// When the build fails; nothing is left of it then.
    pub fn ensure(
        &self,
        key: &str,
        progress: &Progress,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let finished = self.path(key);
        if finished.is_dir() {
            return Ok(finished);
        }
        let _lock = Lock::wait(&self.path("build.lock"), "a build", progress)?;
        if finished.is_dir() {
            return Ok(finished);
        }
        let draft = self.path(&format!(".{key}.building"));
        remove(&draft)?;
        fs::create_dir_all(&draft).with_context(|| draft.display().to_string())?;
        if let Err(error) = build(&draft) {
            remove(&draft)?;
            return Err(error);
        }
        fs::rename(&draft, &finished).with_context(|| finished.display().to_string())?;
        Ok(finished)
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// An advisory lock on a file; the kernel releases it when its holder ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock or says who holds it.
    pub(crate) fn take(path: &Path, holder: &str) -> Result<Self> {
        match Self::attempt(path, holder)? {
            Ok(lock) => Ok(lock),
            Err(other) => bail!(
                "the lab of this machine is in use by {other}; wait for its end (the lock is {})",
                path.display()
            ),
        }
    }

    fn wait(path: &Path, holder: &str, progress: &Progress) -> Result<Self> {
        let mut said = false;
        await_value("the end of another build", PATIENCE, || {
            Ok(match Self::attempt(path, holder)? {
                Ok(lock) => Some(lock),
                Err(other) => {
                    if !said {
                        progress.say(&format!("waiting for {other}"));
                        said = true;
                    }
                    None
                }
            })
        })
    }

    /// The lock, or who holds it.
    fn attempt(path: &Path, holder: &str) -> Result<Result<Self, String>> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("cannot open the lock {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0)?;
                file.seek(SeekFrom::Start(0))?;
                write!(file, "{holder} (process {})", std::process::id())?;
                Ok(Ok(Self { _file: file }))
            }
            Err(TryLockError::WouldBlock) => {
                let mut other = String::new();
                file.read_to_string(&mut other)?;
                Ok(Err(if other.is_empty() {
                    "another process".to_owned()
                } else {
                    other
                }))
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }
}

/// Writes a file so that it is there completely or not at all.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    fs::write(&draft, content).with_context(|| draft.display().to_string())?;
    fs::rename(&draft, path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder below the system's temporary one that goes with the value.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("drqm-lab-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a temporary folder");
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_failed_build_leaves_nothing_that_looks_finished() {
        let scratch = Scratch::new("failed");
        let cache = Cache::at(scratch.0.clone()).expect("a cache");
        let failed = cache.ensure("thing-1", &Progress::silent(), |folder| {
            fs::write(folder.join("half"), "x")?;
            bail!("no")
        });
        assert!(failed.is_err() && !cache.has("thing-1"));
        let folder = cache.ensure("thing-1", &Progress::silent(), |folder| {
            assert!(!folder.join("half").exists());
            Ok(fs::write(folder.join("whole"), "x")?)
        });
        assert!(folder.expect("built").join("whole").exists());
        let again = cache.ensure("thing-1", &Progress::silent(), |_| panic!("it is there"));
        assert!(again.is_ok());
    }

    #[test]
    fn the_holder_of_a_lock_is_named() {
        let scratch = Scratch::new("lock");
        let path = scratch.0.join("lock");
        let first = Lock::take(&path, "cargo demo").expect("free");
        let error = Lock::take(&path, "cargo lab").expect_err("held");
        assert!(error.to_string().contains("cargo demo (process"), "{error}");
        drop(first);
        Lock::take(&path, "cargo lab").expect("free again");
    }
}
