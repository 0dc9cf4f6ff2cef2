//! The columns of the table, PURE: titles, texts, widths, and which of them a narrow terminal does without.

use std::cmp::Ordering;

use super::model::{Queue, Row};

/// Number of characters of a queue's bar.
const BAR: usize = 5;

/// Characters of the longest name that is shown whole.
const LONGEST_NAME: usize = 32;

/// Characters between two columns.
pub(super) const GAP: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Worker,
    State,
    Age,
    Pid,
    Weight,
    Share,
    Got,
    New,
    Connections,
    Queue,
    Cpu,
    Memory,
    Restarts,
}

use Column::{Age, Connections, Cpu, Got, Memory, New, Pid, Restarts, Share, State, Weight, Worker};

/// All columns, in their order.
pub(super) const ALL: [Column; 13] =
    [Worker, State, Age, Pid, Weight, Share, Got, New, Connections, Column::Queue, Cpu, Memory, Restarts];

/// The columns that a narrow terminal does without, the first one first.
const SPARED: [Column; 11] =
    [Weight, Restarts, Memory, Age, Cpu, Pid, Share, Got, Connections, Column::Queue, New];

/// What workers of a service can be sorted by; the first: their numbers.
pub(super) const SORTED: [Column; 8] = [Worker, State, New, Connections, Column::Queue, Cpu, Memory, Age];

/// A column and its number of characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sized {
    pub(super) column: Column,
    pub(super) width: usize,
}

impl Column {
    pub(super) fn title(self) -> &'static str {
        match self {
            Worker => "WORKER",
            State => "STATE",
            Age => "SINCE",
            Pid => "PID",
            Weight => "WEIGHT",
            Share => "SHARE",
            Got => "GOT",
            New => "NEW/S",
            Connections => "CONNS",
            Self::Queue => "QUEUE",
            Cpu => "CPU",
            Memory => "MEMORY",
            Restarts => "RESTARTS",
        }
    }

    /// What the column means, for the help.
    pub(super) fn meaning(self) -> &'static str {
        match self {
            Worker => "its name: service and number",
            State => "what it does; the line at the end says what the selected one lacks",
            Age => "how long its process has been running",
            Pid => "its process",
            Weight => "its share is its weight over the sum of all",
            Share => "its part of the buckets: of what is new it should get so much",
            Got => "what it got of what was new between the last two looks",
            New => "connections and datagrams for it each second",
            Connections => "its live connections, where the service counts them",
            Self::Queue => "how full its fullest queue is; connections (and bytes of datagrams) that wait",
            Cpu => "CPU time of its process, of one CPU",
            Memory => "memory of its process",
            Restarts => "how often its process was started again",
        }
    }

    /// Whether the column is aligned to the left.
    pub(super) fn is_left(self) -> bool {
        matches!(self, Worker | State)
    }

    pub(super) fn text(self, row: &Row) -> String {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        match self {
            Worker if row.id.name.chars().count() > LONGEST_NAME => {
                row.id.name.chars().take(LONGEST_NAME - 1).chain(['…']).collect()
            }
            Worker => row.id.name.clone(),
            State => row.state.clone(),
            Age => or_dash(row.age.map(age)),
            Pid => or_dash(row.pid.map(|pid| pid.to_string())),
            Weight => row.weight.to_string(),
            Share => percent(row.share),
            Got => or_dash(row.arrivals.share.map(percent)),
            New => or_dash(row.arrivals.each_second.map(|rate| format!("{rate:.0}"))),
            Connections => or_dash(row.connections.map(|count| count.to_string())),
            Self::Queue => queue(&row.queue),
            Cpu => or_dash(row.used.cpu.map(percent)),
            Memory => or_dash(row.used.resident_bytes.map(bytes)),
            Restarts => row.restarts.to_string(),
        }
    }

    /// Whether `a` comes before `b`: most first, but names, states and ages from the first, the worst, the youngest on.
    /// Equal ones stay in the daemon's order.
    pub(super) fn order(self, a: &Row, b: &Row) -> Ordering {
        let most = |of: fn(&Row) -> f64| of(b).total_cmp(&of(a));
        match self {
            State => severity(&a.state).cmp(&severity(&b.state)),
            New => most(|row| row.arrivals.each_second.unwrap_or(-1.0)),
            Connections => most(|row| row.connections.map_or(-1.0, |count| count as f64)),
            Self::Queue => most(|row| row.queue.fullest)
                .then(most(|row| (row.queue.connections + row.queue.bytes) as f64)),
            Cpu => most(|row| row.used.cpu.unwrap_or(-1.0)),
            Memory => most(|row| row.used.resident_bytes.map_or(-1.0, |bytes| bytes as f64)),
            Age => most(|row| -row.age.unwrap_or(f64::MAX)),
            _ => Ordering::Equal,
        }
    }
}

/// How well a worker in this state serves: 0 is the worst.
pub(super) fn severity(state: &str) -> u8 {
    match state {
        "failed" => 0,
        "stalled" => 1,
        "overloaded" => 2,
        "held" => 3,
        "ready" => 9,
        "draining" => 8,
        _ => 5,
    }
}

/// The columns for these workers: that of connections only if they are counted.
pub(super) fn of<'a>(mut rows: impl Iterator<Item = &'a Row>) -> Vec<Column> {
    let counted = rows.any(|row| row.connections.is_some());
    ALL.into_iter().filter(|column| counted || *column != Connections).collect()
}

/// The columns for a terminal of `width` characters, each as wide as its title and its longest text.
pub(super) fn fit<'a>(width: usize, rows: impl Iterator<Item = &'a Row> + Clone) -> Vec<Sized> {
    let sized = |column: Column| {
        let texts = rows.clone().map(|row| column.text(row).chars().count());
        Sized { column, width: texts.fold(column.title().chars().count(), usize::max) }
    };
    let mut columns: Vec<Sized> = of(rows.clone()).into_iter().map(sized).collect();
    for spared in SPARED {
        let needed: usize = columns.iter().map(|it| it.width + GAP).sum();
        if needed <= width {
            break;
        }
        columns.retain(|it| it.column != spared);
    }
    columns
}

/// `text` in the width of its column.
pub(super) fn padded(sized: Sized, text: &str) -> String {
    let width = sized.width;
    if sized.column.is_left() { format!("{text:<width$}") } else { format!("{text:>width$}") }
}

/// A bar, and the number of connections; bytes of datagrams if there are any.
fn queue(queue: &Queue) -> String {
    let full = (queue.fullest * BAR as f64).ceil() as usize;
    let bar: String = (0..BAR).map(|at| if at < full { '█' } else { '░' }).collect();
    let waiting = match (queue.connections, queue.bytes) {
        (connections, 0) => connections.to_string(),
        (0, datagrams) => bytes(datagrams),
        (connections, datagrams) => format!("{connections}+{}", bytes(datagrams)),
    };
    format!("{bar} {waiting:>4}")
}

fn percent(part: f64) -> String {
    let percent = part * 100.0;
    if percent < 99.95 { format!("{percent:.1}%") } else { format!("{percent:.0}%") }
}

/// Bytes in the largest unit of which there is at least one.
fn bytes(bytes: u64) -> String {
    let units = ["K", "M", "G", "T"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1023.95 && unit + 1 < units.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    format!("{value:.1}{}", units[unit])
}

/// Seconds in the two largest units.
pub(super) fn age(seconds: f64) -> String {
    let seconds = seconds as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, ..) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::top::model::sections;
    use crate::cmd::top::samples::{look, service, status, worker};

    fn row() -> Row {
        sections(None, &look(status(vec![service("web", vec![worker(0)])]), 100)).remove(0).rows.remove(0)
    }

    #[test]
    fn numbers_are_short() {
        for (seconds, text) in
            [(0.9, "0s"), (59.9, "59s"), (60.0, "1m00s"), (3_661.0, "1h01m"), (90_000.0, "1d01h")]
        {
            assert_eq!(age(seconds), text);
        }
        for (number, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0K"),
            (1 << 20, "1.0M"),
            ((1 << 20) - 1, "1.0M"),
            (3 << 29, "1.5G"),
            (5 << 50, "5120.0T"),
        ] {
            assert_eq!(bytes(number), text);
        }
        for (part, text) in [(0.0, "0.0%"), (0.9994, "99.9%"), (0.9996, "100%"), (12.345, "1234%")] {
            assert_eq!(percent(part), text);
        }
    }

    #[test]
    fn a_bar_shows_the_first_that_waits() {
        let of = |connections, bytes, fullest| queue(&Queue { connections, bytes, fullest });
        assert_eq!(of(0, 0, 0.0), "░░░░░    0");
        assert_eq!(of(1, 0, 0.001), "█░░░░    1");
        assert_eq!(of(4096, 0, 1.0), "█████ 4096");
        assert_eq!(of(0, 2048, 0.5), "███░░ 2.0K");
        assert_eq!(of(3, 2048, 0.5), "███░░ 3+2.0K");
    }

    #[test]
    fn a_narrow_terminal_does_without_columns_and_keeps_worker_and_state() {
        let mut row = row();
        let titles = |row: &Row, width| {
            let columns = fit(width, [row].into_iter());
            let needed: usize = columns.iter().map(|it| it.width + GAP).sum();
            assert!(needed <= width || columns.len() == 2, "{columns:?}");
            columns.iter().map(|it| it.column.title()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(titles(&row, 80), "WORKER STATE SINCE PID SHARE GOT NEW/S QUEUE CPU MEMORY");
        assert_eq!(titles(&row, 40), "WORKER STATE GOT NEW/S QUEUE");
        assert!(!titles(&row, 200).contains("CONNS"), "not counted");
        row.connections = Some(7);
        assert_eq!(titles(&row, 200), ALL.map(Column::title).join(" "));
        assert_eq!(titles(&row, 80), "WORKER STATE SINCE PID SHARE GOT NEW/S CONNS QUEUE CPU MEMORY");
        assert_eq!(titles(&row, 40), "WORKER STATE NEW/S QUEUE");
        assert_eq!(titles(&row, 20), "WORKER STATE");
        assert_eq!(titles(&row, 0), "WORKER STATE");
    }

    #[test]
    fn a_column_is_as_wide_as_its_longest_text() {
        let mut long = row();
        long.id.name = "x".repeat(40);
        long.weight = 1_000_000;
        let columns = fit(200, [&row(), &long].into_iter());
        let width = |column| columns.iter().find(|it| it.column == column).map(|it| it.width);
        assert_eq!((width(Worker), width(Weight), width(Pid)), (Some(LONGEST_NAME), Some(7), Some(4)));
        assert!(Worker.text(&long).ends_with("xx…"));
        assert_eq!(padded(columns[0], "a"), format!("{:<32}", "a"));
        assert_eq!(padded(columns[4], "7"), "      7");
    }

    #[test]
    fn the_worst_and_the_most_come_first() {
        let (mut a, b) = (row(), row());
        for column in ALL {
            assert_eq!(column.order(&a, &b), Ordering::Equal, "{column:?}");
        }
        a.state = "stalled".into();
        a.age = Some(500.0);
        a.queue.connections = 5;
        a.used.cpu = Some(0.0);
        a.used.resident_bytes = Some(1);
        a.arrivals.each_second = Some(0.0);
        for column in [State, Column::Queue, Cpu, New] {
            assert_eq!(column.order(&a, &b), Ordering::Less, "{column:?}");
        }
        for column in [Age, Memory] {
            assert_eq!(column.order(&a, &b), Ordering::Greater, "{column:?}");
        }
        assert_eq!(Worker.order(&a, &b), Ordering::Equal);
    }
}
