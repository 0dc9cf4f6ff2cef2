//! A page in a world of its own: its files at their paths, its commands run, its service checked and started.

use std::fs;
use std::path::Path;

use testkit::daemon::{Daemon, Paths};
use testkit::documents::{Block, Document};
use testkit::said::assert_said;
use testkit::world::{World, run};

use crate::COOKBOOK;
use crate::unit::Unit;

/// The packages' file of services, which each page's goes into.
pub(crate) const SERVICES: &str = "/etc/reuseport-lb.toml";

pub(crate) struct Page {
    /// The columns of its row in the table of the document, after the heading.
    pub(crate) row: Vec<String>,
    // Goes before its world does.
    unit: Unit,
    world: World,
}

impl Page {
    /// Lays its files.
    pub(crate) fn lay(heading: &'static str) -> Self {
        let documents = COOKBOOK.map(Document::read);
        let world = World::new();
        let mut unit = Unit::new(&world);
        let blocks: Vec<&Block> = documents.iter().flat_map(|document| document.under(heading)).collect();
        assert!(blocks.iter().any(|block| block.path() == Some(SERVICES)), "{heading} has no service");
        for block in blocks {
            match block.path() {
                Some(path) if path.ends_with(".conf") && path.starts_with("/etc/systemd/") => {
                    unit.add(&block.text)
                }
                Some(path) => write(path, &block.text),
                None => {
                    let text = format!("set -e\nexport HOME={}\n{}", world.path("").display(), block.text);
                    print!("{}", run("sh", &["-c", &text]));
                }
            }
        }
        unit.users_of(&fs::read_to_string(SERVICES).unwrap());
        let link = format!("[{heading}](");
        let row = documents[0].lines.iter().find(|line| line.starts_with("| ") && line.contains(&link));
        let row = row.unwrap_or_else(|| panic!("the table has no row for {heading}"));
        let row = row.split('|').skip(2).map(|column| column.trim().to_owned()).collect();
        Self { row, unit, world }
    }

    /// Starts the daemon as the unit does, once `check` has nothing to say against the service.
    pub(crate) fn start(&self) -> Daemon {
        let paths = Paths::of(&self.world);
        let checked = paths.output(&["check", SERVICES]);
        assert_said(&checked, 0, &[]);
        assert!(checked.stderr.is_empty(), "{}", String::from_utf8_lossy(&checked.stderr));
        Daemon::start_as(&self.world, self.unit.command(&paths.command(&["run", "--config", SERVICES])))
    }
}

fn write(path: &str, text: &str) {
    fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}
