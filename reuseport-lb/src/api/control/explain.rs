//! The query of a request to explain: `client=ADDRESS[:PORT]` or `key=HEX`, and perhaps `listen=URL`.

use reuseport_lb_client::api::{Explainable, Refusal};

use crate::domain::listener::Listener;

/// Reads the query.
pub(super) fn question(query: Option<&str>) -> Result<(Explainable, Option<Listener>), Refusal> {
    let wrong = |what: &str| {
        Refusal::Malformed(format!(
            "{what}: write explain?client=192.0.2.7:40000 or explain?key=1234abcd, or with &listen=tcp://127.0.0.1:3000"
        ))
    };
    let (mut what, mut listen): (Option<Explainable>, Option<Listener>) = (None, None);
    for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let value =
            unescaped(value).ok_or_else(|| wrong(&format!("{part:?} is not UTF-8 with %XX for bytes")))?;
        match name {
            "client" if what.is_none() => {
                what = Some(Explainable::Client(value.parse().map_err(Refusal::Malformed)?));
            }
            "key" if what.is_none() => {
                let key = u32::from_str_radix(&value, 16);
                what = Some(Explainable::Key(
                    key.map_err(|_| wrong(&format!("{value:?} is no key of up to 8 hex digits")))?,
                ));
            }
            "listen" if listen.is_none() => listen = Some(value.parse().map_err(Refusal::Malformed)?),
            "client" | "key" => return Err(wrong("client and key: there is more than one")),
            "listen" => return Err(wrong("listen is there twice")),
            _ => return Err(wrong(&format!("{name:?} is neither client, key nor listen"))),
        }
    }
    let what = what.ok_or_else(|| wrong("client is missing"))?;
    Ok((what, listen))
}

/// A value with each `%XX` replaced by its byte (RFC 3986, 2.1).
fn unescaped(value: &str) -> Option<String> {
    let mut parts = value.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_a_client_and_perhaps_a_listener() {
        let asked = |query| question(Some(query)).map(|(what, listen)| (what.to_string(), listen));
        let listen = |url: &str| url.parse::<Listener>().ok();
        assert_eq!(asked("client=192.0.2.7:1").unwrap(), ("192.0.2.7:1".into(), None));
        for query in
            ["listen=tcp://[::1]:80&client=[::1]", "client=%5b%3A%3A1%5D&listen=tcp%3A%2F%2F%5B::1%5D:80"]
        {
            assert_eq!(asked(query).unwrap(), ("::1".into(), listen("tcp://[::1]:80")), "{query}");
        }
        assert_eq!(
            asked("key=12abcdef&listen=udp://[::1]:80").unwrap(),
            ("key 12abcdef".into(), listen("udp://[::1]:80"))
        );
        for (query, says) in [
            ("key=123456789", "is no key"),
            ("key=1&client=::1", "more than one"),
            ("listen=udp://[::1]:80&listen=udp://[::1]:80", "twice"),
            ("", "client is missing"),
            ("listen=tcp://[::1]:80", "client is missing"),
            ("client=localhost", "no address of a client"),
            ("client=::1&listen=80", "is not a listener"),
            ("client=::1&client=::1", "more than one"),
            ("client=::1&port=7", "\"port\" is neither"),
            ("client=%", "is not UTF-8"),
            ("client=%+1", "is not UTF-8"),
            ("client=%ff", "is not UTF-8"),
        ] {
            let error = asked(query).unwrap_err();
            assert!(
                matches!(&error, Refusal::Malformed(_)) && error.to_string().contains(says),
                "{query}: {error}"
            );
        }
    }
}
