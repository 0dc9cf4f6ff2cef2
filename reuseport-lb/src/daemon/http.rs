//! Where the daemon answers over HTTP. Not: what is answered (`api/http/`).

use std::cell::Cell;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use socket2::SockRef;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::served;
use crate::api::http::{self, Listening};
use crate::config::{HttpAddress, MetricsConfig};
use crate::handle::Handle;
use crate::kernel::host::Inode;
use crate::kernel::{closing, host};

pub(super) type Served = served::Served<HttpAddress, Option<SocketFile>>;
pub(super) type Change = served::Change<HttpAddress, Opened>;

/// What listens at an address, and the file of a UNIX socket, which is removed when it is dropped.
pub(super) type Opened = (Listening, Option<SocketFile>);

/// Listens at `address`; at `now` this daemon answers already.
pub(super) fn open(address: &HttpAddress, now: Option<&HttpAddress>) -> Result<Opened> {
    let own = now.and_then(HttpAddress::path);
    match address {
        HttpAddress::Tcp(at) => Ok((Listening::Tcp(listen(*at)?), None)),
        HttpAddress::Unix { path, mode, group } => {
            let (listener, file) = SocketFile::make(path, *mode, group.as_deref(), own == Some(path))
                .with_context(|| format!("cannot answer over HTTP at {}", path.display()))?;
            Ok((Listening::Unix(listener), Some(file)))
        }
    }
}

/// Answers there, with these series at `/metrics`, which may change meanwhile.
pub(super) fn serve(
    address: &HttpAddress,
    (listening, mut file): Opened,
    handle: Handle,
    metrics: Rc<Cell<MetricsConfig>>,
) -> (JoinHandle<()>, Option<SocketFile>) {
    if let Some(file) = &mut file
        && let Err(error) = file.place()
    {
        warn!("{error:#}");
    }
    info!("answers at {address}");
    (tokio::task::spawn_local(http::serve(listening, handle, metrics)), file)
}

/// Bytes of an answer that the kernel keeps for one connection (it doubles them). By itself it would keep megabytes,
/// also after the connection is closed, and all TCP of the machine slows down if it keeps too much.
const UNSENT: usize = 128 << 10;

fn listen(at: SocketAddr) -> Result<TcpListener> {
    let listen = || {
        let listener = std::net::TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        // Its connections have it as well.
        SockRef::from(&listener).set_send_buffer_size(UNSENT)?;
        TcpListener::from_std(listener)
    };
    listen().with_context(|| format!("cannot answer over HTTP at {at}"))
}

/// The file of a UNIX socket; at another path than its own until it is placed there.
pub(super) struct SocketFile {
    path: PathBuf,
    at: PathBuf,
    inode: Option<Inode>,
}

impl SocketFile {
    /// Makes the socket with a file beside `path`. `own`: what is at `path` is this daemon's.
    fn make(path: &Path, mode: u32, group: Option<&str>, own: bool) -> Result<(UnixListener, Self)> {
        if !own && UnixStream::connect(path).is_ok() {
            bail!("another process answers there already");
        }
        // A socket is this daemon's, or that of one that was killed.
        if fs::symlink_metadata(path).is_ok_and(|about| !about.file_type().is_socket()) {
            bail!("there is a file already that is no socket");
        }
        let mut at = path.as_os_str().to_owned();
        at.push(".new");
        let at = PathBuf::from(at);
        host::remove_socket(&at);
        let listener = host::with_umask(0o177, || UnixListener::bind(&at))?;
        let file = Self { path: path.to_owned(), inode: host::inode_at(&at), at };
        closing::refuse_descriptors(&listener);
        if let Some(group) = group {
            chown(&file.at, None, Some(host::group(group)?))
                .with_context(|| format!("cannot give it to {group}"))?;
        }
        fs::set_permissions(&file.at, fs::Permissions::from_mode(mode))?;
        Ok((listener, file))
    }

    fn place(&mut self) -> Result<()> {
        fs::rename(&self.at, &self.path)
            .with_context(|| format!("cannot rename {} to {}", self.at.display(), self.path.display()))?;
        self.at.clone_from(&self.path);
        Ok(())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if host::is_there(&self.at, self.inode) {
            host::remove_socket(&self.at);
        }
    }
}
