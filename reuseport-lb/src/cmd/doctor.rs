//! `doctor`: finds out what would keep services from working on this machine. Changes
//! nothing. Not: verdicts about the findings (`doctor/`).

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Result, bail};
use reuseport_lb_client::control::ControlError;

use super::client::client;
use super::print::{Reported, print, print_json};
use crate::cli;
use crate::config::{self, ServiceConfig, SocketSource, WhenBusy};
use crate::daemon::{self, HERE, Paths, startable};
use crate::doctor::places::{self, Daemon};
use crate::doctor::system::{self, Bpffs};
use crate::doctor::{Check, Report, Tried, Verdict, limits, opening};
use crate::domain::listener::{Listener, Protocol};
use crate::kernel::bpffs::{self, Detached, MountPoint};
use crate::kernel::group::Policy;
use crate::kernel::host::{self, Access};
use crate::kernel::offsets::VMLINUX;
use crate::kernel::probe::{self, Scratch, sysctl};
use crate::kernel::{calls, rights, socket, strangers};

pub(super) fn run(arguments: &cli::DoctorArgs, paths: &Paths) -> Result<()> {
    let services = match &arguments.config {
        Some(file) => config::read(file, HERE)?.services,
        None => vec![ServiceConfig::demo_here(socket::has_ipv6())],
    };
    let mut checks = checks(&services, paths)?;
    checks.push(system::ipv6(socket::has_ipv6(), arguments.config.is_none()));
    checks.extend(config::warnings(&services).into_iter().map(places::configuration_warning));
    let report = Report::new(host::release(), checks);
    if arguments.json {
        print_json(&serde_json::to_string_pretty(&report)?)?;
    } else {
        print(&report.text())?;
    }
    match report.count(Verdict::Failure) {
        0 => Ok(()),
        failures => bail!(Reported(format!(
            "{failures} of {} checks failed: the services would not work here",
            report.checks.len()
        ))),
    }
}

fn checks(services: &[ServiceConfig], paths: &Paths) -> Result<Vec<Check>> {
    let complaint = rights::complaint()?;
    let mut checks = vec![
        system::kernel(&host::release()),
        system::rights(complaint.as_ref().map(|complaint| (&*complaint.what, &*complaint.mend))),
        system::bpffs(&paths.bpffs.display().to_string(), &place_for_pins(&paths.bpffs)?),
    ];
    checks.extend(programs(services, &paths.bpffs));
    checks.push(system::btf(Path::new(VMLINUX).exists(), services.iter().any(reads_types)));
    let opens = services.iter().any(|service| service.sockets == SocketSource::Bind);
    checks.push(opening::answering(&tried(calls::answering()), opens));
    checks.push(system::jit(number("net.core.bpf_jit_enable")));
    checks.push(limits::open_files(probe::hard_open_files(), services));
    checks.push(limits::memory(probe::memory().as_ref(), services, probe::possible_cpus()));
    let somaxconn = number("net.core.somaxconn");
    checks.extend(services.iter().filter_map(|service| limits::backlog(service, somaxconn)));
    let udp = services.iter().flat_map(|service| service.listeners()).any(|it| it.protocol == Protocol::Udp);
    checks.extend(number("net.core.rmem_default").filter(|_| udp).map(limits::receive_queue));
    checks.extend(local_ports(services));
    let (daemon, ours) = daemon(paths);
    checks.push(places::daemon(&paths.runtime_dir, &daemon));
    checks.push(runtime_dir(&paths.runtime_dir)?);
    checks.push(binary()?);
    checks.extend(addresses(services, &daemon, &ours));
    for service in services {
        checks.extend(startable::checks(service, &paths.runtime_dir));
    }
    Ok(checks)
}

fn number(sysctl_name: &str) -> Option<u64> {
    sysctl(sysctl_name)?.parse().ok()
}

fn place_for_pins(place: &Path) -> Result<Bpffs> {
    let inside = Access::WRITE_OK | Access::EXEC_OK;
    Ok(match bpffs::look(place) {
        Ok(MountPoint::Mounted) => {
            let pins = bpffs::all_pins(place);
            let reached = rights::as_daemon(|| {
                host::reaches(place, inside)?;
                if pins.exists() { host::reaches(&pins, inside) } else { Ok(()) }
            })?;
            Bpffs::Mounted(reached.map_err(|error| error.to_string()))
        }
        Ok(MountPoint::Free) => Bpffs::Free(Detached::new().map(drop).map_err(|error| error.to_string())),
        Ok(MountPoint::Taken(why)) => Bpffs::Other(format!("it {why}")),
        Ok(MountPoint::Nothing) => Bpffs::Nothing,
        Ok(MountPoint::Other) => Bpffs::Other("it is no directory".into()),
        Err(error) => Bpffs::Other(error.to_string()),
    })
}

/// Loads each kind of program that the services need, and hands a connection over.
fn programs(services: &[ServiceConfig], bpffs: &Path) -> Vec<Check> {
    let mut kinds: Vec<(String, Listener, Policy)> = Vec::new();
    for service in services {
        let policy = Policy::from(service);
        for listener in service.listeners() {
            let family = match (listener.dual_stack, listener.address.is_ipv6()) {
                (true, _) => "IPv4 and IPv6",
                (false, true) => "IPv6",
                (false, false) => "IPv4",
            };
            let mut kind = format!("{} over {family}, affinity {}", listener.protocol, service.affinity);
            if avoids_busy(service) && listener.protocol == Protocol::Tcp {
                kind += ", when_busy next";
            }
            if listener.protocol == Protocol::Tcp && service.counts_connections() {
                kind += &format!(", balance {}, connections counted", service.connections.balance);
            }
            if listener.protocol == Protocol::Udp && !service.tracks(listener) {
                kind += ", flows none";
            }
            if !kinds.iter().any(|(known, ..)| *known == kind) {
                kinds.push((kind, *listener, policy.clone()));
            }
        }
    }
    let scratch = Scratch::make(bpffs).map_err(|error| format!("{error:#}"));
    let mut checks = Vec::new();
    for (at, (kind, listener, policy)) in kinds.iter().enumerate() {
        let tried = try_in(&scratch, |scratch| scratch.load(&at.to_string(), listener, policy));
        checks.push(system::program(kind, &tried));
    }
    checks.push(system::wake_up(&try_in(&scratch, probe::hand_over)));
    if services.iter().any(avoids_busy) {
        checks.push(system::waiting(&try_in(&scratch, probe::waiting)));
    }
    if services.iter().any(ServiceConfig::counts_connections) {
        checks.push(system::counting(&try_in(&scratch, probe::counting)));
    }
    checks
}

/// Whether programs of the service are made for the kernel's own types.
fn reads_types(service: &ServiceConfig) -> bool {
    avoids_busy(service) || service.counts_connections()
}

fn avoids_busy(service: &ServiceConfig) -> bool {
    service.when_busy == WhenBusy::Next
}

fn try_in<T>(scratch: &Result<Scratch, String>, what: impl FnOnce(&Scratch) -> Result<T>) -> Tried<T> {
    match scratch {
        Ok(scratch) => tried(what(scratch)),
        Err(why) => Tried::Not(why.clone()),
    }
}

fn tried<T>(outcome: Result<T>) -> Tried<T> {
    outcome.map_or_else(|error| Tried::Failed(format!("{error:#}")), Tried::Done)
}

fn local_ports(services: &[ServiceConfig]) -> Vec<Check> {
    let Some(text) = sysctl("net.ipv4.ip_local_port_range") else { return Vec::new() };
    let mut ends = text.split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else { return Vec::new() };
    let reserved = sysctl("net.ipv4.ip_local_reserved_ports").unwrap_or_default();
    services.iter().filter_map(|service| limits::local_ports(service, (first, last), &reserved)).collect()
}

/// The daemon in the runtime directory, and the cookies of its sockets.
fn daemon(paths: &Paths) -> (Daemon, HashSet<u64>) {
    let error = match client(paths).status() {
        Ok(status) => {
            let names = status.services.iter().map(|service| service.name.clone()).collect();
            let workers = status.services.iter().flat_map(|service| &service.workers);
            let ours = workers.flat_map(|worker| &worker.sockets).map(|socket| socket.cookie).collect();
            return (Daemon::Running(status.pid, names), ours);
        }
        Err(error) => error,
    };
    if !matches!(error, ControlError::NoDaemon { .. }) {
        return (Daemon::Silent(format!("{:#}", anyhow::Error::from(error))), HashSet::new());
    }
    let (services, ours) = daemon::left_in(&paths.runtime_dir);
    (if services == 0 { Daemon::None } else { Daemon::Left(services) }, ours)
}

fn runtime_dir(directory: &Path) -> Result<Check> {
    let mut found = daemon::about_directory(directory);
    let there = probe::existing(directory);
    let closed = rights::as_daemon(|| {
        probe::closed(there).or_else(|| {
            let inside = host::reaches(there, Access::WRITE_OK | Access::EXEC_OK);
            inside.err().map(|error| (there.to_owned(), error))
        })
    })?;
    found.closed = closed.map(|(part, error)| (part.display().to_string(), error.to_string()));
    Ok(places::runtime_dir(directory, &found))
}

fn binary() -> Result<Check> {
    let path = std::env::current_exe()?;
    let reached = rights::as_daemon(|| host::reaches(&path, Access::EXEC_OK))?;
    let closed = reached.err().map(|error| error.to_string());
    Ok(places::binary(&path.display().to_string(), closed.as_deref()))
}

fn addresses(services: &[ServiceConfig], daemon: &Daemon, ours: &HashSet<u64>) -> Vec<Check> {
    let unknown = match daemon {
        Daemon::Silent(_) => Some("a daemon that does not tell may have them".to_owned()),
        _ => None,
    };
    let no_ipv6 = !socket::has_ipv6();
    let mut checks = Vec::new();
    for service in services {
        let owner = startable::socket_owner(service);
        for config::ListenerConfig { listener, freebind, .. } in &service.listen {
            let strangers = match listener.address.port() {
                0 => Ok(Vec::new()),
                _ => strangers::list(listener, ours).map_err(|error| format!("{error:#}")),
            };
            let had = match socket::try_address(listener, *freebind, owner) {
                // A conflict that `try_address` makes for UDP over IPv6 with a socket on another address; or one with the
                // daemon's own sockets, which a reload gives to another user.
                Err(error)
                    if error.kind() == std::io::ErrorKind::AddrInUse
                        && (!ours.is_empty()
                            || listener.protocol == Protocol::Udp && listener.address.is_ipv6())
                        && strangers.as_ref().is_ok_and(Vec::is_empty) =>
                {
                    Ok(())
                }
                had => had,
            };
            let found = places::Address {
                had,
                strangers,
                unknown: unknown.clone(),
                no_ipv6: no_ipv6.then_some(socket::NO_IPV6),
            };
            checks.push(places::address(listener, service.workers, &found));
        }
    }
    checks
}
