//! The processes whose sockets are adopted.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs;

use crate::domain::whose::Whose;
use crate::kernel::cgroup::Cgroup;
use crate::kernel::liveness::{self, Stat};

/// All processes of `whose` in a lasting order: a process before its descendants, else the older ones first. An error is
/// the reason why there is none.
pub(super) fn of(whose: &Whose) -> Result<Vec<i32>, String> {
    match whose {
        Whose::Pid { pid, started } => {
            let stat = Stat::read(*pid).filter(|stat| !stat.is_zombie());
            if stat.is_none_or(|stat| started.is_some() && stat.started != *started) {
                return Err(format!("process {pid} has ended"));
            }
            Ok(tree(*pid))
        }
        Whose::PidFile(path) => {
            let content = fs::read_to_string(path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            let pid: i32 =
                content.trim().parse().map_err(|_| format!("{} has no process id in it", path.display()))?;
            if Stat::read(pid).is_none_or(|stat| stat.is_zombie()) {
                return Err(format!("process {pid}, which is in {}, has ended", path.display()));
            }
            Ok(tree(pid))
        }
        Whose::Unit(unit) => {
            let own = std::process::id().cast_signed();
            let mut pids = Cgroup::of_unit(unit)?.processes();
            pids.retain(|pid| *pid != own);
            pids.sort_unstable();
            if pids.is_empty() { Err(format!("unit {unit} has no process")) } else { Ok(pids) }
        }
        Whose::Any => {
            let own = std::process::id().cast_signed();
            // Their names are enough: this is asked for with each look.
            let names = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
            let pid = |name: OsString| name.to_str()?.parse::<i32>().ok().filter(|pid| *pid != own);
            let mut pids: Vec<i32> = names.filter_map(pid).collect();
            pids.sort_unstable();
            Ok(pids)
        }
    }
}

/// Those of these processes that still run.
pub(super) fn alive(pids: &[i32]) -> Vec<i32> {
    let runs = |pid: &i32| Stat::read(*pid).is_some_and(|stat| !stat.is_zombie());
    pids.iter().copied().filter(runs).collect()
}

/// Notes when the process was started that is meant by its id, so that no later one is taken for it.
pub fn pin(whose: &mut Whose) {
    if let Whose::Pid { pid, started } = whose {
        *started = Stat::read(*pid).and_then(|stat| stat.started);
    }
}

/// A process and its descendants.
fn tree(root: i32) -> Vec<i32> {
    // This process has duplicates of their sockets at times.
    let mut found = BTreeSet::from([root, std::process::id().cast_signed()]);
    let (mut all, mut open) = (vec![root], VecDeque::from([root]));
    while let Some(pid) = open.pop_front() {
        for child in children(pid) {
            if found.insert(child) {
                all.push(child);
                open.push_back(child);
            }
        }
    }
    all
}

/// The children of a process, the oldest first: of all of its threads (/proc/PID/task/TID/children).
fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut children = Vec::new();
    for task in tasks {
        match fs::read_to_string(task.path().join("children")) {
            Ok(list) => {
                children.extend(list.split_ascii_whitespace().filter_map(|it| it.parse::<i32>().ok()))
            }
            // A kernel without CONFIG_PROC_CHILDREN; or the thread has just ended.
            Err(_) if task.path().exists() => {
                let of = |(child, stat): (i32, Stat)| (stat.parent == pid).then_some(child);
                return liveness::all_processes().filter_map(of).collect();
            }
            Err(_) => {}
        }
    }
    children.sort_unstable();
    children
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_comes_before_its_descendants_and_a_later_one_with_its_id_is_not_taken_for_it() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 60 & echo; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0];
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut line).unwrap();
        let pid = shell.id().cast_signed();
        let of = |started| super::of(&Whose::Pid { pid, started });
        let mut pinned = Whose::Pid { pid, started: None };
        pin(&mut pinned);
        let Whose::Pid { started: own, .. } = pinned else { unreachable!() };
        let found = of(own).unwrap();
        assert_eq!((found[0], found.len()), (pid, 2), "{found:?}");
        assert_eq!(of(None).unwrap(), found);
        assert_eq!(of(Some(own.unwrap() + 1)).unwrap_err(), format!("process {pid} has ended"));
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let by_file = || super::of(&Whose::PidFile(file.clone()));
        assert!(by_file().unwrap_err().contains("cannot read"));
        fs::write(&file, "nothing\n").unwrap();
        assert!(by_file().unwrap_err().contains("no process id"));
        fs::write(&file, format!("{pid}\n")).unwrap();
        assert_eq!(by_file().unwrap(), found);
        assert!(super::of(&Whose::Any).unwrap().contains(&found[1]));
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(found[1]).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        shell.wait().unwrap();
        assert_eq!(of(None).unwrap_err(), format!("process {pid} has ended"));
        assert!(super::of(&Whose::Unit("no-such-unit.service".into())).unwrap_err().contains("no-such-unit"));
    }
}
