//! What the packages' unit allows, without systemd: its capabilities, and a file system that can be read only, but for
//! what drop-ins name.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use testkit::world::{World, repository};

const UNIT: &str = "reuseport-lb/systemd/reuseport-lb.service";

/// Folders of the machine that pages write to: in the world they are layers over the machine's.
const WRITTEN: [&str; 3] = ["/etc", "/srv", "/var"];

const LAYERS: &str = "layers";

pub(crate) struct Unit {
    /// The world's folder, which the daemon of the test writes to.
    folder: PathBuf,
    layered: Vec<String>,
    /// Lines of the unit and its drop-ins.
    lines: Vec<String>,
}

impl Unit {
    /// Gets the world's folders ready.
    pub(crate) fn new(world: &World) -> Self {
        let layers = world.path(LAYERS);
        fs::create_dir(&layers).unwrap();
        mount(Some("tmpfs"), &layers, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
        // Programs of tests may be below the home folder, and other users are to run them as well.
        let home = std::env::var("HOME").unwrap_or_else(|_| "/root".into());
        let layered: Vec<String> = WRITTEN.into_iter().map(Into::into).chain([home]).collect();
        layered.iter().for_each(|folder| layer(&layers, Path::new(folder)));
        let cache = Path::new(&layered[WRITTEN.len()]).join(".cache");
        if cache.exists() {
            fs::set_permissions(cache, fs::Permissions::from_mode(0o755)).unwrap();
        }
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
        // What sd_booted(3) looks for.
        fs::create_dir_all("/run/systemd/system").unwrap();
        let unit = fs::read_to_string(repository().join(UNIT)).unwrap();
        Self { folder: world.path(""), layered, lines: unit.lines().map(Into::into).collect() }
    }

    /// Adds a drop-in.
    pub(crate) fn add(&mut self, drop_in: &str) {
        self.lines.extend(drop_in.lines().map(Into::into));
    }

    /// Makes the users of services that the machine does not have.
    pub(crate) fn users_of(&self, services: &str) {
        let mut known = fs::read_to_string("/etc/passwd").unwrap();
        let mut groups = fs::read_to_string("/etc/group").unwrap();
        let users = services.lines().filter_map(|line| line.strip_prefix("user = \"")?.strip_suffix('"'));
        for (user, id) in users.zip(4711..) {
            if !known.lines().any(|line| line.starts_with(&format!("{user}:"))) {
                known += &format!("{user}:x:{id}:{id}::/nonexistent:/usr/sbin/nologin\n");
                groups += &format!("{user}:x:{id}:\n");
            }
        }
        fs::write("/etc/passwd", known).unwrap();
        fs::write("/etc/group", groups).unwrap();
    }

    fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let lines = self.lines.iter().filter_map(move |line| line.strip_prefix(key)?.strip_prefix('='));
        lines.flat_map(str::split_whitespace)
    }

    /// A command as the unit runs it.
    pub(crate) fn command(&self, command: &Command) -> Command {
        let capabilities: String = self
            .values("CapabilityBoundingSet")
            .map(|it| format!(",+{}", it.trim_start_matches("CAP_").to_lowercase()))
            .collect();
        let made = [("RuntimeDirectory", "/run"), ("StateDirectory", "/var/lib")];
        let made: Vec<String> = made
            .into_iter()
            .flat_map(|(key, below)| self.values(key).map(move |folder| format!("{below}/{folder}")))
            .collect();
        for folder in &made {
            fs::create_dir_all(folder).unwrap();
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let written = made.iter().map(String::as_str).chain(self.values("ReadWritePaths"));
        let written =
            written.map(|path| path.trim_start_matches('-')).filter(|path| Path::new(path).exists());
        let folder = self.folder.display().to_string();
        let written: Vec<&str> =
            written.filter(|path| !path.starts_with("/sys/")).chain([&*folder]).collect();
        let before = self.lines.iter().filter_map(|line| line.strip_prefix("ExecStartPre="));
        let before = before.map(|line| match line.strip_prefix('+') {
            Some(unlimited) => format!("{unlimited}\n"),
            None => format!("(limited {line})\n"),
        });
        let script = format!(
            "set -e\nlimited() {{ exec setpriv --no-new-privs --bounding-set=-all{capabilities} \"$@\"; }}\n\
             mount --make-rprivate /\nfor it in {}; do mount --rbind $it $it; done\n\
             for it in / /run {}; do mount -o remount,bind,ro $it; done\n{}limited \"$@\"\n",
            written.join(" "),
            self.layered.join(" "),
            before.collect::<String>(),
        );
        let mut wrapped = Command::new("unshare");
        wrapped
            .args(["--mount", "sh", "-c", &script, "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        wrapped.stdin(std::process::Stdio::null());
        wrapped
    }
}

impl Drop for Unit {
    /// The world can remove its folder then.
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.folder.join(LAYERS), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Puts a layer over a folder, which every user may look into: what is written there is the world's.
fn layer(layers: &Path, folder: &Path) {
    let own = layers.join(folder.strip_prefix("/").unwrap().display().to_string().replace('/', "-"));
    let (upper, work) = (own.join("upper"), own.join("work"));
    fs::create_dir_all(&upper).unwrap();
    fs::create_dir_all(&work).unwrap();
    let options =
        format!("lowerdir={},upperdir={},workdir={}", folder.display(), upper.display(), work.display());
    mount(Some("overlay"), folder, Some("overlay"), MsFlags::empty(), Some(&*options)).unwrap();
}
