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
        assert!(any("x{pid}") && !any("{{pid}} {x}"));
        assert!(is_of_one("{index}") && is_of_one("{worker}") && !is_of_one("{service}{pid}{{index}}"));
        assert!(has("{pid}{index}", "index") && !has("{{index}}", "index"));
    }
}
