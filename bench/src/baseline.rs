//! A group whose program decides as simply as can be: what decisions are compared with.

use anyhow::{Context, Result};
use aya::maps::{MapData, ReusePortSockArray};
use aya::programs::SkReuseport;
use aya::{Ebpf, EbpfLoader};
use reuseport_lb::domain::listener::{Listener, Protocol};
use socket2::{Domain, Socket, Type};

use testkit::world::target;

/// Sockets in a group, and the program that selects one; gone on drop.
pub struct Baseline {
    /// The kernel's number of the program.
    pub program_id: u32,
    /// One for each worker, in the order of their slots.
    pub sockets: Vec<Socket>,
    /// Program and maps.
    pub keep: (Ebpf, ReusePortSockArray<MapData>),
}

impl Baseline {
    /// With one of the programs in `bench/ebpf`.
    ///
    /// # Errors
    /// If the kernel refuses any of it, or nothing is built.
    pub fn load(program: &str, listener: &Listener, workers: u16) -> Result<Self> {
        let object = target().join("ebpf/bpfel-unknown-none/release/baselines");
        let object = std::fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
        // Of other numbers `bare_spread` and `bare_table` take the power of two below.
        let mask = (1u32 << workers.ilog2()) - 1;
        let mut ebpf = EbpfLoader::new().override_global("MASK", &mask, true).load(&object)?;
        let kind = if listener.protocol == Protocol::Tcp { Type::STREAM } else { Type::DGRAM };
        let program: &mut SkReuseport = ebpf.program_mut(program).context("no such program")?.try_into()?;
        program.load()?;
        let program_id = program.info()?.id();
        let mut sockets = Vec::new();
        for _ in 0..workers {
            let socket = Socket::new(Domain::IPV4, kind, None)?;
            socket.set_reuse_port(true)?;
            socket.bind(&listener.address.into())?;
            if listener.protocol == Protocol::Tcp {
                socket.listen(4096)?;
            }
            sockets.push(socket);
        }
        program.attach(&sockets[0])?;
        let mut array: ReusePortSockArray<_> = ebpf.take_map("SOCKETS").context("no map")?.try_into()?;
        for (slot, socket) in (0..).zip(&sockets) {
            array.set(slot, socket, 0)?;
        }
        Ok(Self { program_id, sockets, keep: (ebpf, array) })
    }
}
