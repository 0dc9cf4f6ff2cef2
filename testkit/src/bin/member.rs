//! A worker that joins with the library and does, word by word, what its standard input says:
//! `ready`, `accept`, `leave`. Prints its name first and then a line for each word. For tests.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use reuseport_lb_client::worker::{JoinOptions, JoinedWorker};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context("usage: member RUNTIME_DIR SERVICE WEIGHT [TIMES]");
    let runtime_dir = PathBuf::from(next()?);
    let service = next()?;
    let weight = next()?.parse()?;
    let options = JoinOptions { runtime_dir, weight, ..JoinOptions::new(&service) };
    if let Ok(times) = next() {
        return many(&options, times.parse()?);
    }
    let mut worker = JoinedWorker::join(&options)?;
    let (_, listener) = worker.take_tcp().pop().context("no listener")?;
    println!("{}", worker.name());
    for word in std::io::stdin().lock().lines() {
        match word?.as_str() {
            "ready" => worker.ready().map(|()| println!("ready"))?,
            "leave" => worker.leave().map(|()| println!("leaves"))?,
            "accept" => match listener.accept() {
                Ok((mut stream, peer)) => {
                    writeln!(stream, "{}", worker.name())?;
                    println!("{peer}");
                }
                Err(error) => println!("{}", error.raw_os_error().unwrap_or_default()),
            },
            other => bail!("{other:?} is not a word"),
        }
    }
    Ok(())
}

/// Joins so often, prints each refusal and then `done`, and stays until its standard input ends.
fn many(options: &JoinOptions, times: usize) -> Result<()> {
    for _ in 0..times {
        // Its sockets are closed; it is a worker as long as the process is there.
        if let Err(error) = JoinedWorker::join(options) {
            println!("{error}");
        }
    }
    println!("done");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}
