//! Counting live connections: the accounts of a daemon, the tags of its listening sockets, and the program that counts. They
//! are pinned, so connections are counted while no daemon runs. Not: what a service does with it
//! (`service/dataplane/connections.rs`).

mod tags;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use aya::maps::{HashMap as BpfHashMap, Map, MapData, MapError, SkStorage};
use aya::programs::BtfTracePoint;
use aya::programs::links::{FdLink, PinnedLink};
use aya::{Btf, EbpfLoader};
use reuseport_lb_common::connections::{Accounts, CONNECTIONS_VERSION, MAX_ACCOUNTS, NO_ACCOUNT, Tag};
use socket2::Socket;
use tracing::warn;

use super::loading::{errno, explained, make_map, open_map};
use super::mapped::Mapped;

/// The object with the program that counts, aligned for the ELF parser.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("REUSEPORT_LB_CONNECTIONS"));

/// Names of pins; of maps they are those in the objects as well.
const TAGS: &str = "TAGS";
pub(super) const ACCOUNTS: &str = "ACCOUNTS";
pub(super) const LISTENERS: &str = "LISTENERS";
pub(super) const MOVED: &str = "MOVED";
const LINK: &str = "link";

const TRIED: &str = "count live connections";

/// The accounts of a daemon. Dropping this leaves everything as it is; see [`Connections::remove`].
pub struct Connections {
    pins: PathBuf,
    accounts: Mapped<Accounts>,
    maps: RefCell<Maps>,
    /// Keeps the program attached though its pin may be removed.
    _link: PinnedLink,
    used: RefCell<Used>,
}

struct Maps {
    tags: SkStorage<MapData, Tag>,
    listeners: BpfHashMap<MapData, u64, Tag>,
}

/// Accounts that belong to somebody.
#[derive(Default)]
struct Used {
    accounts: BTreeSet<u32>,
    /// Listening sockets by their accounts, also those of sockets that are gone: connections may still be handed over.
    listeners: HashMap<u32, u64>,
    /// The account that was given last.
    last: u32,
}

impl Connections {
    /// Begins to count, or goes on with what an earlier daemon counts, with pins in a directory of its own in `root`.
    /// Needs CAP_BPF, CAP_PERFMON and the kernel's own types (CONFIG_DEBUG_INFO_BTF). Takes some 50 ms.
    pub fn open(root: &Path) -> Result<Self> {
        let pins = root.join(directory());
        if !pins.join(LINK).exists() {
            let _ = std::fs::remove_dir_all(&pins);
            std::fs::create_dir_all(&pins).with_context(|| format!("cannot make {}", pins.display()))?;
            begin(&pins)?;
        }
        let link = PinnedLink::from_pin(pins.join(LINK)).context("cannot open the pinned link")?;
        // SAFETY: the map was made with a value of this type, whose fields are all `Shared`, as the version in the
        // directory's name says.
        let accounts = unsafe { Mapped::new(open_map(&pins.join(ACCOUNTS))?.fd()) }?;
        let tags = SkStorage::try_from(Map::SkStorage(open_map(&pins.join(TAGS))?))?;
        let listeners = BpfHashMap::try_from(Map::HashMap(open_map(&pins.join(LISTENERS))?))?;
        let used = Used { listeners: by_account(&listeners), ..Used::default() };
        let maps = RefCell::new(Maps { tags, listeners });
        Ok(Self { pins, accounts, maps, _link: link, used: RefCell::new(used) })
    }

    /// Where the maps of the programs that choose are pinned.
    #[must_use]
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// Live connections of an account.
    #[must_use]
    pub fn live(&self, account: u32) -> u32 {
        self.accounts.line(account).live()
    }

    /// Since when an account counts, in seconds since 1970, if there may be connections from before.
    #[must_use]
    pub fn since(&self, account: u32) -> Option<u64> {
        Some(self.accounts.line(account).since.get()).filter(|since| *since != 0)
    }

    /// Gives out an account without connections; [`NO_ACCOUNT`], which counts nothing, if there is none.
    pub fn give(&self) -> u32 {
        let mut used = self.used.borrow_mut();
        let all = MAX_ACCOUNTS as u32;
        let next = (1..all).map(|step| (used.last + step) % all);
        let free = |account: &u32| *account != NO_ACCOUNT && !used.accounts.contains(account);
        let Some(account) = next.into_iter().filter(free).find(|account| self.live(*account) == 0) else {
            warn!("all {MAX_ACCOUNTS} accounts are in use: connections of another socket are not counted");
            return NO_ACCOUNT;
        };
        used.last = account;
        used.accounts.insert(account);
        if let Some(before) = used.listeners.remove(&account) {
            // Gone already if the map was made anew.
            let _ = self.maps.borrow_mut().listeners.remove(&before);
        }
        self.accounts.line(account).since.set(0);
        account
    }

    /// Notes that an account, which it returns, belongs to somebody: an earlier daemon gave it out.
    pub fn keep(&self, account: u32) -> u32 {
        self.used.borrow_mut().accounts.insert(account);
        account
    }

    /// Takes an account back. It is given out again when it has no connections any more.
    pub fn take_back(&self, account: u32) {
        self.used.borrow_mut().accounts.remove(&account);
    }

    /// The tag of a listening socket, if it has one.
    #[must_use]
    pub fn tag(&self, socket: &Socket) -> Option<Tag> {
        self.maps.borrow().tags.get(socket, 0).ok()
    }

    /// Counts the connections that a listening socket accepts from now on. With `older`, it may have some from before.
    pub fn set_tag(&self, socket: &Socket, tag: Tag, older: bool) -> Result<()> {
        let cookie = socket.cookie().context("a socket without a cookie")?;
        if older {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.accounts.line(tag.socket).since.set(now.as_secs());
        }
        let mut maps = self.maps.borrow_mut();
        maps.listeners.insert(cookie, tag, 0).context("cannot note a listening socket")?;
        maps.tags.insert(socket, tag, 0).context("cannot give a socket its tag")?;
        self.used.borrow_mut().listeners.insert(tag.socket, cookie);
        Ok(())
    }

    /// Counts no further connections of a listening socket; those that it has accepted are counted until they end.
    pub fn remove_tag(&self, socket: &Socket) -> Result<()> {
        match self.maps.borrow_mut().tags.remove(socket) {
            Err(error) if errno(&error) != Some(libc::ENOENT) => Err(error).context("cannot remove a tag"),
            _ => Ok(()),
        }
    }

    /// Ends counting: the program is detached, and its maps are freed when no group has them any more.
    pub fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.pins);
    }
}

/// Name of the directory of pins.
#[must_use]
pub fn directory() -> String {
    format!("connections-{CONNECTIONS_VERSION}")
}

/// Makes and pins the maps, and attaches the program; the link is pinned last.
fn begin(pins: &Path) -> Result<()> {
    let made = |error: MapError| explained(error.into(), TRIED);
    let pinned = || format!("cannot pin a map in {}", pins.display());
    let tags = tags::make().map_err(|error| explained(error.into(), TRIED))?;
    MapData::from_fd(tags).map_err(made)?.pin(pins.join(TAGS)).with_context(pinned)?;
    make_map::<{ size_of::<Accounts>() }>(&pins.join(ACCOUNTS))?;
    for name in [LISTENERS, MOVED] {
        let map: BpfHashMap<MapData, u64, Tag> = BpfHashMap::create(MAX_ACCOUNTS as u32, 0).map_err(made)?;
        map.pin(pins.join(name)).with_context(pinned)?;
    }
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    for name in [TAGS, ACCOUNTS, MOVED] {
        loader.map_pin_path(name, pins.join(name));
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| explained(error.into(), TRIED))?;
    let program = ebpf.program_mut("rlb_connections").context("the object has no program that counts")?;
    let program: &mut BtfTracePoint = program.try_into()?;
    let types =
        Btf::from_sys_fs().context("the kernel does not describe its types (CONFIG_DEBUG_INFO_BTF)")?;
    program.load("inet_sock_set_state", &types).map_err(|error| explained(error.into(), TRIED))?;
    let link = program.attach().map_err(|error| explained(error.into(), TRIED))?;
    let link: FdLink = program.take_link(link)?.into();
    link.pin(pins.join(LINK)).with_context(|| format!("cannot pin a link in {}", pins.display()))?;
    Ok(())
}

/// Listening sockets by their accounts.
fn by_account(listeners: &BpfHashMap<MapData, u64, Tag>) -> HashMap<u32, u64> {
    listeners.iter().flatten().map(|(cookie, tag)| (tag.socket, cookie)).collect()
}
