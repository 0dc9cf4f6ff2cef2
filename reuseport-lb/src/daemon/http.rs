//! Where the daemon answers over HTTP: opened before a configuration is applied, so that one whose address cannot be
//! opened changes nothing. Not: what is answered (`api/http/`).

use std::cell::{Cell, RefCell};
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

use crate::api::http::{self, Listening};
use crate::config::{HttpAddress, MetricsConfig};
use crate::handle::Handle;
use crate::kernel::host::Inode;
use crate::kernel::{closing, host};

/// The address that is served now, if any.
pub(super) struct HttpServer {
    handle: Handle,
    metrics: Rc<Cell<MetricsConfig>>,
    now: RefCell<Option<Serving>>,
}

struct Serving {
    address: HttpAddress,
    task: JoinHandle<()>,
    /// Removed when it is dropped.
    _file: Option<SocketFile>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A change of the address, of which everything that can fail is done.
pub(super) enum Change {
    /// It stays.
    None,
    /// To no address.
    Close,
    /// To this one.
    Open(HttpAddress, Listening, Option<SocketFile>),
}

impl HttpServer {
    pub(super) fn new(handle: Handle) -> Self {
        Self { handle, metrics: Rc::default(), now: RefCell::default() }
    }

    /// `/metrics` has these series from now on.
    pub(super) fn use_metrics(&self, metrics: MetricsConfig) {
        self.metrics.set(metrics);
    }

    /// Opens `wanted`, unless it is served already.
    pub(super) fn prepare(&self, wanted: Option<HttpAddress>) -> Result<Change> {
        open(wanted, self.now.borrow().as_ref().map(|now| &now.address))
    }

    /// Answers at another address from now on.
    pub(super) fn apply(&self, change: Change) {
        let (address, listening, mut file) = match change {
            Change::None => return,
            Change::Close => return drop(self.now.take()),
            Change::Open(address, listening, file) => (address, listening, file),
        };
        if let Some(file) = &mut file
            && let Err(error) = file.place()
        {
            warn!("{error:#}");
        }
        info!("answers at {address}");
        let task =
            tokio::task::spawn_local(http::serve(listening, self.handle.clone(), self.metrics.clone()));
        self.now.replace(Some(Serving { address, task, _file: file }));
    }
}

/// Opens `wanted`, unless it is the address `now`.
pub(super) fn open(wanted: Option<HttpAddress>, now: Option<&HttpAddress>) -> Result<Change> {
    let Some(address) = wanted else { return Ok(Change::Close) };
    if now == Some(&address) {
        return Ok(Change::None);
    }
    let own = now.and_then(HttpAddress::path);
    let (listening, file) = match &address {
        HttpAddress::Tcp(at) => (Listening::Tcp(listen(*at)?), None),
        HttpAddress::Unix { path, mode, group } => {
            let (listener, file) = SocketFile::make(path, *mode, group.as_deref(), own == Some(path))
                .with_context(|| format!("cannot answer over HTTP at {}", path.display()))?;
            (Listening::Unix(listener), Some(file))
        }
    };
    Ok(Change::Open(address, listening, file))
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
