//! Programs that only run when the daemon calls them (BPF_PROG_TEST_RUN of raw tracepoint programs, which are attached
//! to nothing; net/bpf/test_run.c, Linux 5.10): they read the kernel's memory about a socket of this process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use aya::EbpfLoader;
use aya::programs::RawTracePoint;
use reuseport_lb_common::program::OFFSETS;
use socket2::Socket;

use super::loading::{OBJECT, explained};
use super::offsets::offsets;
use super::raw::bpf;

/// include/uapi/linux/bpf.h
const BPF_PROG_TEST_RUN: libc::c_long = 10;

/// The fields of `union bpf_attr` for BPF_PROG_TEST_RUN (include/uapi/linux/bpf.h), as far as this module needs
/// them; the kernel takes the rest as zero.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
}

/// A loaded program.
pub(super) struct TestProgram(OwnedFd);

impl TestProgram {
    /// Loads the program of this name, which needs CAP_BPF, CAP_PERFMON and the kernel's own types
    /// (CONFIG_DEBUG_INFO_BTF). `tried`: what it is for, for errors.
    pub(super) fn load(name: &str, tried: &str) -> Result<Self> {
        let offsets = offsets()?;
        // Not `loading::loader`, which keeps the pins of groups.
        let loaded = EbpfLoader::new().btf(None).override_global(OFFSETS, offsets, true).load(OBJECT);
        let mut ebpf = loaded.map_err(|error| explained(error.into(), tried))?;
        let program = ebpf.program_mut(name).with_context(|| format!("the object has no {name}"))?;
        let program: &mut RawTracePoint = program.try_into()?;
        program.load().map_err(|error| explained(error.into(), tried))?;
        let program = program.fd()?.as_fd().try_clone_to_owned().context("cannot keep a program")?;
        Ok(Self(program))
    }

    /// Runs the program for `socket`, and returns its answer. Takes about a microsecond.
    pub(super) fn run(&self, socket: &Socket) -> io::Result<u32> {
        let arguments = [socket.as_raw_fd() as u64];
        let mut run = TestRun {
            prog_fd: self.0.as_raw_fd() as u32,
            ctx_size_in: size_of_val(&arguments) as u32,
            ctx_in: arguments.as_ptr() as u64,
            ..TestRun::default()
        };
        // SAFETY: the kernel reads `run` and `arguments`, which live until the call returns, and writes the answer into
        // `run`.
        unsafe { bpf(BPF_PROG_TEST_RUN, &mut run) }?;
        Ok(run.retval)
    }
}
