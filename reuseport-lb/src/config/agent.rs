//! Where the daemon answers agent checks of HAProxy (`[agent]`). Not: what it answers (`api/agent.rs`).

use std::net::SocketAddr;

use serde::Deserialize;
use toml::Spanned;

use super::errors::{Invalid, located};

/// `[agent]` as it is written in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    listen: Spanned<String>,
}

impl Written {
    pub(super) fn validated(self, text: &str) -> Result<SocketAddr, Invalid> {
        agent(self.listen.get_ref()).map_err(|error| Invalid(located(text, Some(self.listen.span()), &error)))
    }
}

/// Reads the TCP address to answer agent checks at.
pub fn agent(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| {
        format!("{text:?} is no address to answer at: write one like 127.0.0.1:9466 or [::1]:9466")
    })?;
    if address.port() == 0 {
        return Err(format!("{text:?} has port 0, so that nobody would know where to ask: write a port"));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::super::{Machine, parse};

    #[test]
    fn an_address_with_a_port() {
        let agent = |listen: &str| {
            let service = "[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:80\"]\n";
            let text = format!("{service}[agent]\nlisten = {listen:?}\n");
            parse(&text, Machine::ANOTHER).map(|all| all.answers.agent).map_err(|error| error.to_string())
        };
        assert_eq!(agent("[::1]:9466").unwrap(), Some("[::1]:9466".parse().unwrap()));
        for (wrong, says) in [
            ("9466", "\"9466\" is no address to answer at"),
            ("/run/agent", "\"/run/agent\" is no address to answer at"),
            ("127.0.0.1:0", "\"127.0.0.1:0\" has port 0"),
        ] {
            let error = agent(wrong).unwrap_err();
            assert!(error.contains(says) && error.contains("line 5"), "{error}");
        }
    }
}
