//! The daemon's own sockets, `control.sock` and `join.sock`, which are made again if they are removed (by a
//! cleaner of temporary files, for example). Not: their protocols (`api/`).

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::warn;

use super::Paths;
use super::services::Registry;
use crate::api::control;
use crate::api::join;
use crate::handle::Handle;
use crate::kernel::host::Inode;
use crate::kernel::{closing, host};

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

/// Both sockets, listening.
pub(super) struct Sockets {
    control: UnixListener,
    join: UnixListener,
}

impl Sockets {
    /// Makes both sockets; the control socket is for the daemon's user only from its first moment.
    pub(super) fn make(paths: &Paths) -> Result<Self> {
        let control = listen_for_administrators(&paths.control())?;
        let join = join::listen(&reuseport_lb_client::join::path(&paths.runtime_dir))?;
        Ok(Self { control, join })
    }

    /// Serves both sockets as long as the runtime lives. Each second calls `look`, which makes other files again, and
    /// then makes the sockets again if they were removed.
    pub(super) async fn serve(self, paths: Paths, handle: Handle, registry: Rc<Registry>, look: impl Fn()) {
        let (joining, requests) = mpsc::unbounded_channel();
        tokio::task::spawn_local(registry.pass_on(requests));
        let answer = |listener| tokio::task::spawn_local(control::serve(listener, handle.clone()));
        let serve_join = |listener| tokio::task::spawn_local(join::serve(listener, joining.clone()));
        let (control_path, join_path) =
            (paths.control(), reuseport_lb_client::join::path(&paths.runtime_dir));
        let mut control = Serving::begun(&control_path, answer(self.control));
        let mut join = Serving::begun(&join_path, serve_join(self.join));
        loop {
            tokio::time::sleep(LOOK).await;
            look();
            again(&control_path, &mut control, listen_for_administrators, answer);
            again(&join_path, &mut join, join::listen, serve_join);
        }
    }
}

fn listen_for_administrators(path: &Path) -> Result<UnixListener> {
    let listener = host::with_umask(0o177, || UnixListener::bind(path))
        .with_context(|| format!("cannot make the control socket {}", path.display()))?;
    closing::refuse_descriptors(&listener);
    Ok(listener)
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
