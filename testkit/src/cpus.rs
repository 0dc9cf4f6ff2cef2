//! CPUs: which there are, and who runs where.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Numbers of the CPUs that a process may use, in ascending order; with 0, this thread.
///
/// # Panics
/// If the kernel does not tell.
#[must_use]
pub fn cpus_of(pid: i32) -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(pid)).expect("the kernel tells");
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu) == Ok(true)).collect()
}

/// Keeps this thread, and what it starts from now on, to one CPU: what it sends over loopback is received by that CPU.
///
/// # Panics
/// If the kernel does not let it.
pub fn keep_to(cpu: usize) {
    let mut one = CpuSet::new();
    one.set(cpu).expect("a CPU");
    sched_setaffinity(Pid::from_raw(0), &one).expect("a CPU that this thread may use");
}

/// Does something in a thread of its own on this CPU, in this thread's namespaces.
///
/// # Panics
/// If that does.
pub fn on_cpu<T: Send>(cpu: usize, what: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            keep_to(cpu);
            what()
        });
        thread.join().expect("the thread goes on to its end")
    })
}
