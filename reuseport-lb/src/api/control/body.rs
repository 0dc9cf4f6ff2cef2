//! Bodies of requests, and their bounds.

use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use reuseport_lb_client::api::Refusal;
use serde::Deserialize;

use crate::api::json;
use crate::config::plain;

/// Bytes of the longest body of a request.
const LONGEST: usize = 64 << 10;

/// How long a body may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads the body of a request.
pub(super) async fn read(body: Incoming) -> Result<Bytes, Refusal> {
    let whole = tokio::time::timeout(PATIENCE, Limited::new(body, LONGEST).collect())
        .await
        .map_err(|_| Refusal::Late(format!("the body did not arrive within {PATIENCE:?}")))?
        .map_err(|error| {
            Refusal::Malformed(format!("cannot read the body (at most {LONGEST} bytes): {error}"))
        })?;
    Ok(whole.to_bytes())
}

pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    json::object(body).map_err(|error| {
        Refusal::Malformed(format!(
            "the body is not the JSON that is expected: {}",
            plain(&error.to_string())
        ))
    })
}

/// Parses a body all of whose fields have defaults: it may be empty.
pub(super) fn parse_or_default<'a, T: Deserialize<'a> + Default>(body: &'a [u8]) -> Result<T, Refusal> {
    if body.trim_ascii().is_empty() || body.trim_ascii() == b"null" { Ok(T::default()) } else { parse(body) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reuseport_lb_client::api::{Drain, Scale};

    #[test]
    fn a_list_is_no_object() {
        assert_eq!(parse::<Scale>(b" {\"workers\":9}").unwrap().workers, Some(9));
        for body in ["[9]", " [9]", "[]", "9", "\"9\""] {
            let error = parse::<Scale>(body.as_bytes()).unwrap_err();
            assert!(matches!(&error, Refusal::Malformed(text) if text.contains("JSON")), "{body}: {error}");
        }
        assert!(parse_or_default::<Drain>(b"").is_ok() && parse_or_default::<Drain>(b" null\n").is_ok());
        assert!(parse_or_default::<Drain>(b"[]").unwrap_err().to_string().contains("a list"));
    }
}
