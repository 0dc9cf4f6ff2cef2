//! Placeholders like `{index}` in what a worker is started with, and what they stand for. PURE.

/// All of them, without their braces.
const NAMES: [&str; 4] = ["index", "worker", "service", "pid"];

/// The service and the number in the name of a worker: `web` and `2` of `web/2`.
#[must_use]
pub fn parts(worker: &str) -> (&str, &str) {
    worker.rsplit_once('/').unwrap_or((worker, ""))
}

/// `text` with each placeholder replaced by what it stands for in this worker. `{{index}}` becomes `{index}`; all
/// other braces stay, so that JSON, shell functions and templates can be written as they are.
#[must_use]
pub fn fill(text: &str, worker: &str, pid: u32) -> String {
    let (service, index) = parts(worker);
    replace(text, |name| match name {
        "index" => index.to_owned(),
        "worker" => worker.to_owned(),
        "service" => service.to_owned(),
        _ => pid.to_string(),
    })
}

/// Whether `text` has a placeholder that is replaced.
#[must_use]
pub fn any(text: &str) -> bool {
    NAMES.iter().any(|name| has(text, name))
}

/// Whether `text` has this placeholder, and it is replaced.
#[must_use]
pub fn has(text: &str, name: &str) -> bool {
    let mut found = false;
    replace(text, |it| {
        found |= it == name;
        String::new()
    });
    found
}

/// Whether `text` is another one for each worker of a service.
#[must_use]
pub fn is_of_one(text: &str) -> bool {
    has(text, "index") || has(text, "worker")
}

/// A word in single braces that is probably a misspelt placeholder, and the one that was meant. Shell variables (`${…}`)
/// and doubled braces are not looked at.
#[must_use]
pub fn misspelt(text: &str) -> Option<(&str, &'static str)> {
    text.char_indices().filter(|(_, c)| *c == '{').find_map(|(at, _)| {
        if text[..at].ends_with(['$', '{']) {
            return None;
        }
        let (inside, _) = text[at + 1..].split_once('}')?;
        let word = inside.trim();
        let is_word = word.len() >= 3 && word.chars().all(|c| c.is_ascii_alphabetic());
        if NAMES.contains(&inside) || !is_word || inside.contains(char::is_control) {
            return None;
        }
        let word = word.to_ascii_lowercase();
        let far = |name: &str| strsim::damerau_levenshtein(&word, name);
        let near = NAMES.into_iter().min_by_key(|name| far(name))?;
        // One wrong letter in a short word, two in a longer one.
        (far(near) <= near.len().div_ceil(4)).then_some((inside, near))
    })
}

fn replace(text: &str, mut value: impl FnMut(&str) -> String) -> String {
    let mut whole = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        whole += before;
        rest = if let Some((name, after)) = strip(from, "{{", "}}") {
            whole += &format!("{{{name}}}");
            after
        } else if let Some((name, after)) = strip(from, "{", "}") {
            whole += &value(name);
            after
        } else {
            whole.push('{');
            &from[1..]
        };
    }
    whole + rest
}

/// The name between these braces at the beginning of `text`, and what follows.
fn strip<'a>(text: &'a str, open: &str, close: &str) -> Option<(&'static str, &'a str)> {
    let inside = text.strip_prefix(open)?;
    NAMES.iter().find_map(|name| Some((*name, inside.strip_prefix(name)?.strip_prefix(close)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced_and_other_braces_stay() {
        for (text, filled) in [
            ("--port=808{index}", "--port=8082"),
            ("{service}: {worker} {pid}", "web: web/2 77"),
            ("{index}{index}", "22"),
            ("{{index}}", "{index}"),
            ("{{{index}}}", "{{index}}"),
            ("{{index}", "{2"),
            ("{indx} {} {INDEX} { index }", "{indx} {} {INDEX} { index }"),
            (r#"{"worker": "{worker}", "a": {}}"#, r#"{"worker": "web/2", "a": {}}"#),
            ("a() { b; }; ${worker}", "a() { b; }; $web/2"),
            ("{pid", "{pid"),
            ("ä{pid}ö", "ä77ö"),
            ("", ""),
        ] {
            assert_eq!(fill(text, "web/2", 77), filled, "{text}");
        }
        for (text, meant) in [
            ("--port=808{indx}", Some(("indx", "index"))),
            ("{index} {indxe}", Some(("indxe", "index"))),
            ("{INDEX}", Some(("INDEX", "index"))),
            ("{ worker }", Some((" worker ", "worker"))),
            ("{wroker}", Some(("wroker", "worker"))),
            ("{sevice}", Some(("sevice", "service"))),
            ("{index} {worker} {service} {pid} {{indx}} ${indx} {} {name} {id} {worker_name} {number}", None),
            (r#"{"worker": 1}"#, None),
            ("{indx", None),
            ("ä{ö}", None),
        ] {
            assert_eq!(misspelt(text), meant, "{text}");
        }
        assert!(any("x{pid}") && !any("{{pid}} {x}"));
        assert!(is_of_one("{index}") && is_of_one("{worker}") && !is_of_one("{service}{pid}{{index}}"));
        assert!(has("{pid}{index}", "index") && !has("{{index}}", "index"));
    }
}
