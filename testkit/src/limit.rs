//! Limits on a process, by a cgroup of its own.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Lifted on drop.
pub struct Limit {
    group: PathBuf,
    limit: &'static str,
}

impl Limit {
    /// Leaves process `pid` so many bytes of memory beyond what it has now.
    ///
    /// # Panics
    /// If there is no memory controller.
    #[must_use]
    pub fn memory(pid: i32, more: u64) -> Self {
        let (v1, v2) = (("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current"));
        Self::of(pid, "memory", v1, v2, more)
    }

    /// Leaves process `pid` so many more processes and threads.
    ///
    /// # Panics
    /// If there is no controller for them.
    #[must_use]
    pub fn processes(pid: i32, more: u64) -> Self {
        let files = ("pids.max", "pids.current");
        Self::of(pid, "pids", files, files, more)
    }

    fn of(pid: i32, controller: &str, v1: (&'static str, &str), v2: (&'static str, &str), more: u64) -> Self {
        let apart = PathBuf::from("/sys/fs/cgroup").join(controller);
        let (root, (limit, usage)) = if apart.is_dir() {
            (apart, v1)
        } else {
            let root = PathBuf::from("/sys/fs/cgroup");
            // It may be there already.
            let _ = fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
            (root, v2)
        };
        let group = root.join(format!("reuseport-lb-{pid}"));
        fs::create_dir(&group)
            .unwrap_or_else(|error| panic!("this test needs a cgroup: {}: {error}", group.display()));
        fs::write(group.join("cgroup.procs"), pid.to_string()).expect("cannot move a process to a cgroup");
        let used: u64 =
            fs::read_to_string(group.join(usage)).ok().and_then(|it| it.trim().parse().ok()).unwrap_or(0);
        fs::write(group.join(limit), (used + more).to_string()).unwrap_or_else(|error| {
            panic!("this test needs the {controller} controller of cgroups: {error}")
        });
        Self { group, limit }
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        let root = self.group.parent().unwrap_or(&self.group);
        let _ = fs::write(self.group.join(self.limit), "-1")
            .or_else(|_| fs::write(self.group.join(self.limit), "max"));
        // Somebody in it may start another process just now.
        for _ in 0..100 {
            for pid in fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default().lines() {
                let _ = fs::write(root.join("cgroup.procs"), pid);
            }
            if fs::remove_dir(&self.group).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5)); // sleep: `until` would panic while another panic unwinds
        }
    }
}
