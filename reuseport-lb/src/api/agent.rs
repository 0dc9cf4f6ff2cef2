//! Answers to HAProxy's `agent-check`: one line for each connection (HAProxy's configuration manual, `agent-check`). Not: the
//! judgement (`domain/judgement.rs`).
//!
//! A name of a service that is sent first (`agent-send "web\n"`) asks for that service, nothing for all of them.

use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::connection_limit::{self, Permit};
use crate::domain::judgement::Judgement;
use crate::handle::Handle;
use crate::printable::inline;

/// How long a name is waited for: one that asks for all services sends nothing.
const NAME_WITHIN: Duration = Duration::from_millis(200);

/// How long an answer may take to be read.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// Longest name that is read, with the end of its line.
const LONGEST: usize = 256;

/// Answers agent checks as long as the task lives.
pub async fn serve(listener: TcpListener, handle: Handle) {
    let handle = Rc::new(handle);
    connection_limit::serve(listener, "agent socket", |stream, permit: Permit| {
        let handle = handle.clone();
        async move {
            tokio::select! {
                // Whoever does not read, or has gone, gets nothing.
                _ = timeout(NAME_WITHIN + READ_WITHIN, converse(stream, &handle)) => {}
                () = permit.evicted() => {}
            }
        }
    })
    .await;
}

async fn converse(mut stream: TcpStream, handle: &Handle) -> std::io::Result<()> {
    let name = name(&mut stream).await?;
    let answer = match handle.judged(Some(&*name).filter(|name| !name.is_empty())).await {
        Ok(judgement) => line(&judgement),
        Err(refusal) => down(&refusal.to_string()),
    };
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// The line that is sent, without its end; empty if none is.
async fn name(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut sent = Vec::new();
    let read = async {
        let mut part = [0; LONGEST];
        while !sent.contains(&b'\n') && sent.len() < LONGEST {
            match stream.read(&mut part).await? {
                0 => break,
                count => sent.extend(&part[..count]),
            }
        }
        std::io::Result::Ok(())
    };
    timeout(NAME_WITHIN, read).await.unwrap_or(Ok(()))?;
    let line = sent.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).trim().to_owned())
}

/// A judgement in HAProxy's words. Each answer says both its states, the operational and the administrative one, since HAProxy
/// keeps what an answer does not say.
fn line(judgement: &Judgement) -> String {
    match judgement {
        Judgement::Up(weight) => format!("up ready {weight}%\n"),
        Judgement::Drained(_) => "up drain\n".into(),
        Judgement::Down(reasons) => down(&reasons.join("; ")),
    }
}

/// HAProxy takes `down#` without a space for no word that it knows, and leaves the server up (2.6).
fn down(why: &str) -> String {
    format!("down #{}\n", inline(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judgement_in_the_words_of_haproxy() {
        let why = || vec!["web has no worker that is ready".to_owned(), "dns\nis ending".to_owned()];
        assert_eq!(line(&Judgement::Up(75)), "up ready 75%\n");
        assert_eq!(line(&Judgement::Drained(why())), "up drain\n");
        assert_eq!(line(&Judgement::Down(why())), "down #web has no worker that is ready; dns\\nis ending\n");
    }
}
