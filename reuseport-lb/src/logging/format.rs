//! How events look in the log: text for people, or one JSON object a line. Not: where they go (`mod.rs`).

use std::error::Error;
use std::fmt::{self, Debug};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{DefaultFields, Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogFormat;
use crate::kernel::journal;
use crate::printable::{inline, log_line};

/// Whether the log goes to the journal.
static JOURNAL: OnceLock<bool> = OnceLock::new();

/// Whether lines of the log are JSON.
static JSON: AtomicBool = AtomicBool::new(false);

/// Lines of the log look like this from now on.
pub fn use_format(format: LogFormat) {
    JSON.store(format == LogFormat::Json, Ordering::Relaxed);
}

/// Whether lines of the log are JSON.
#[must_use]
pub fn is_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

pub(super) fn is_journal() -> bool {
    *JOURNAL.get_or_init(journal::is_there)
}

/// Formats message and fields of an event on one line, with control characters escaped.
pub(super) struct OneLine;

impl<'w> FormatFields<'w> for OneLine {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut text = String::new();
        DefaultFields::new().format_fields(Writer::new(&mut text), fields)?;
        writer.write_str(&inline(&text))
    }
}

/// Priorities of the journal (syslog(3)).
pub(super) const ERROR: &str = "<3>";
pub(super) const WARNING: &str = "<4>";
const INFO: &str = "<6>";
const DEBUG: &str = "<7>";

/// Formats an event, as text or as JSON, with its priority in front if the log goes to the
/// journal.
pub(super) struct Prioritized(pub(super) Format);

impl<S, N> FormatEvent<S, N> for Prioritized
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if is_journal() {
            writer.write_str(match *event.metadata().level() {
                Level::ERROR => ERROR,
                Level::WARN => WARNING,
                Level::INFO => INFO,
                Level::DEBUG | Level::TRACE => DEBUG,
            })?;
        }
        if !is_json() {
            return self.0.format_event(context, writer, event);
        }
        let mut members = Members::default();
        event.record(&mut members);
        let level = event.metadata().level().as_str();
        writer.write_str(&log_line(SystemTime::now(), level, &members.message, &members.others))
    }
}

/// The message of an event, and its fields with their types.
#[derive(Default)]
struct Members {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Members {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        // What the package `log` says of a line's origin.
        if !field.name().starts_with("log.") {
            self.others.push((field.name(), value.into()));
        }
    }
}

impl Visit for Members {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.add(field, value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" { self.message = text } else { self.add(field, text) }
    }
}
