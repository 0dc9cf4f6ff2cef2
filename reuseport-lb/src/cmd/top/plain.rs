//! One table as plain text, for pipes and `--once`, PURE.

use super::columns;
use super::model::{Row, Section};
use crate::cmd::render;

/// All services, with all columns.
pub(super) fn text(sections: &[Section]) -> String {
    let mut text = String::new();
    for section in sections {
        if !text.is_empty() {
            text.push('\n');
        }
        text += &format!("{}\n", section.title);
        let columns = columns::of(section.rows.iter());
        let mut table = render::plain(columns.iter().map(|column| column.title()));
        for row in &section.rows {
            table.add_row(columns.iter().map(|column| column.text(row)));
        }
        text += &render::finish(table, 2);
        let lacks = |row: &Row| row.lacks.as_ref().map(|lacks| format!(" {} {lacks}\n", row.id.name));
        text.extend(section.rows.iter().filter_map(lacks));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::model::sections;
    use super::super::samples::{look, service, status, worker};
    use super::*;

    #[test]
    fn all_is_in_one_text() {
        let before = status(vec![service("web", vec![worker(0), worker(1)]), service("dns", Vec::new())]);
        let mut now = before.clone();
        let stalled = &mut now.services[0].workers[1];
        (stalled.state, stalled.lacks) = ("stalled".into(), Some("does not accept".into()));
        (stalled.sockets[0].queue, stalled.sockets[0].selected) = (60, 7);
        let text = text(&sections(Some(&look(before, 100)), &look(now, 101)));
        let wanted = "\
service web: 1 of 2 workers ready, affinity flow, 7 new/s
  WORKER  STATE    SINCE   PID  WEIGHT  SHARE   GOT  NEW/S       QUEUE   CPU  MEMORY  RESTARTS
  web/0   ready       1s  1000       1  25.0%  0.0%      0  ░░░░░    0  0.0%    8.0M         0
  web/1   stalled     1s  1001       1  25.0%  100%      7  ███░░   60  0.0%    8.0M         0
 web/1 does not accept

service dns: 0 of 0 workers ready, affinity flow, 0 new/s
  WORKER  STATE  SINCE  PID  WEIGHT  SHARE  GOT  NEW/S  QUEUE  CPU  MEMORY  RESTARTS
";
        assert_eq!(text, wanted);
    }
}
