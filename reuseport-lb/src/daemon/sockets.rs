//! The daemon's own sockets, `control.sock` and `join.sock`, which are made again if they are removed (by a
//! cleaner of temporary files, for example). Not: their protocols (`api/`).

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::warn;

use super::Paths;
use super::services::Registry;
use crate::api::control::{self, Monitors};
use crate::api::join;
use crate::handle::Handle;
use crate::kernel::host::Inode;
use crate::kernel::{closing, host};

/// Permissions of the control socket, with the bits of its group if that may ask.
const MODE: u32 = 0o600;
const OF_GROUP: u32 = 0o060;

/// Interval between looks whether the sockets are there.
const LOOK: Duration = Duration::from_secs(1);

/// A socket that is served.
struct Serving {
    task: JoinHandle<()>,
    /// Identity of the socket's file.
    inode: Option<Inode>,
}

impl Serving {
    fn begun(path: &Path, task: JoinHandle<()>) -> Self {
        Self { task, inode: host::inode_at(path) }
    }
}

/// The control socket's file, and the group that may ask there.
#[derive(Clone)]
pub(super) struct Control {
    path: PathBuf,
    monitors: Monitors,
}

impl Control {
    pub(super) fn new(paths: &Paths, group: Option<&str>) -> Result<Self> {
        let control = Self { path: paths.control(), monitors: Monitors::default() };
        control.set_monitors(group)?;
        Ok(control)
    }

    fn set_monitors(&self, group: Option<&str>) -> Result<()> {
        self.monitors.set(group.map(host::group).transpose()?);
        Ok(())
    }

    /// Lets the members of this group ask from now on, and those of no other.
    pub(super) fn open_to(&self, group: Option<&str>) -> Result<()> {
        self.set_monitors(group)?;
        self.set_group().with_context(|| format!("cannot change who may ask at {}", self.path.display()))
    }

    fn set_group(&self) -> std::io::Result<()> {
        let mode = |bits| fs::set_permissions(&self.path, fs::Permissions::from_mode(bits));
        mode(MODE)?;
        if let Some(group) = self.monitors.get() {
            chown(&self.path, None, Some(group))?;
            mode(MODE | OF_GROUP)?;
        }
        Ok(())
    }

    /// For the daemon's user only from its first moment, until its group may ask.
    fn listen(&self) -> Result<UnixListener> {
        let path = &self.path;
        let listener = host::with_umask(!MODE & 0o777, || UnixListener::bind(path))
            .with_context(|| format!("cannot make the control socket {}", path.display()))?;
        closing::refuse_descriptors(&listener);
        self.set_group().with_context(|| format!("cannot give {} to its group", path.display()))?;
        Ok(listener)
    }
}

/// Both sockets, listening.
pub(super) struct Sockets {
    file: Control,
    control: UnixListener,
    join: UnixListener,
}

impl Sockets {
    /// Makes both sockets.
    pub(super) fn make(paths: &Paths, file: Control) -> Result<Self> {
        let control = file.listen()?;
        let join = join::listen(&reuseport_lb_client::join::path(&paths.runtime_dir))?;
        Ok(Self { file, control, join })
    }

    /// Serves both sockets as long as the runtime lives. Each second calls `look`, which makes other files again, and
    /// then makes the sockets again if they were removed.
    pub(super) async fn serve(self, paths: Paths, handle: Handle, registry: Rc<Registry>, look: impl Fn()) {
        let (joining, requests) = mpsc::unbounded_channel();
        tokio::task::spawn_local(registry.pass_on(requests));
        let file = self.file;
        let answer = |listener| {
            tokio::task::spawn_local(control::serve(listener, handle.clone(), file.monitors.clone()))
        };
        let serve_join = |listener| tokio::task::spawn_local(join::serve(listener, joining.clone()));
        let join_path = reuseport_lb_client::join::path(&paths.runtime_dir);
        let mut control = Serving::begun(&file.path, answer(self.control));
        let mut join = Serving::begun(&join_path, serve_join(self.join));
        loop {
            tokio::time::sleep(LOOK).await;
            look();
            again(&file.path, &mut control, |_| file.listen(), answer);
            again(&join_path, &mut join, join::listen, serve_join);
        }
    }
}

/// Makes a socket again if it was removed; open connections stay.
fn again(
    path: &Path,
    serving: &mut Serving,
    listen: impl Fn(&Path) -> Result<UnixListener>,
    serve: impl Fn(UnixListener) -> JoinHandle<()>,
) {
    if host::is_there(path, serving.inode) {
        return;
    }
    // Another socket may be there, as from a copy of the directory.
    host::remove_socket(path);
    match listen(path) {
        Ok(listener) => {
            warn!("{} was removed, and is there again", path.display());
            std::mem::replace(serving, Serving::begun(path, serve(listener))).task.abort();
        }
        // The next look tries again.
        Err(error) => tracing::debug!("{error:#}"),
    }
}
