//! Questions and answers of DNS, as far as tests need them.

/// A question for the address of a name, with this number.
///
/// # Panics
/// If a label of the name is too long.
#[must_use]
pub fn query(number: u16, name: &str) -> Vec<u8> {
    let mut query = [&number.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        query.push(u8::try_from(label.len()).expect("a short label"));
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    query
}

/// The answer of a server that knows every name: 192.0.2.1.
///
/// # Panics
/// If it is no question.
#[must_use]
pub fn answer(query: &[u8]) -> Vec<u8> {
    let question = &query[12..];
    let name = question.iter().position(|byte| *byte == 0).expect("the end of a name");
    let flags_and_counts = [0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1];
    [&query[..2], &flags_and_counts, &question[..name + 5], &record].concat()
}

/// The first label of the name that a question asks for.
///
/// # Panics
/// If it is no question.
#[must_use]
pub fn label(query: &[u8]) -> &[u8] {
    &query[13..13 + usize::from(query[12])]
}

/// Whether a message answers a question with a record and without an error.
///
/// # Errors
/// If not, with the message.
pub fn resolved(query: &[u8], message: &[u8]) -> Result<(), String> {
    let right = message.len() > query.len()
        && message[..2] == query[..2]
        && message[2] & 0x80 != 0
        && message[3] & 0xf == 0
        && message[7] > 0;
    right.then_some(()).ok_or_else(|| format!("answer: no address: {message:?}"))
}

#[cfg(test)]
mod tests {
    use super::{answer, label, query, resolved};

    #[test]
    fn an_answer_resolves_its_question_alone() {
        let asked = query(0x1267, "www.test");
        assert_eq!(
            asked,
            b"\x12\x67\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x04test\x00\x00\x01\x00\x01"
        );
        assert_eq!(label(&asked), b"www");
        assert_eq!(resolved(&asked, &answer(&asked)), Ok(()));
        assert!(resolved(&query(1, "www.test"), &answer(&asked)).is_err());
        assert!(resolved(&asked, &asked).is_err());
    }
}
