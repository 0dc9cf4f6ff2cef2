//! `top`: services and workers again and again, with what is new each second, and keys that change them; without a
//! terminal one table.

mod actions;
mod app;
mod columns;
mod live;
mod model;
mod plain;
#[cfg(test)]
mod samples;
mod screen;
mod view;

use std::io::{IsTerminal, stdout};
use std::thread::sleep;

use anyhow::Result;

use super::client::client;
use super::names;
use super::print::print;
use crate::cli;
use crate::daemon::Paths;

pub(super) fn run(arguments: &cli::TopArgs, paths: &Paths) -> Result<()> {
    if let Some(service) = &arguments.service {
        names::service(service, "top")?;
    }
    let looker = live::Looker::new(client(paths), arguments.service.clone());
    let first = looker.look()?;
    let term = std::env::var("TERM").unwrap_or_default();
    if arguments.once || !stdout().is_terminal() || matches!(&*term, "" | "dumb") {
        sleep(live::EACH);
        return print(&plain::text(&model::sections(Some(&first), &looker.look()?)));
    }
    let no_color = std::env::var("NO_COLOR").ok();
    live::run(&looker, first, view::Theme::of(&term, no_color.as_deref()))
}
