//! Whether a program said what a document shows. Numbers and what stands for them differ from run to run; words do not.

/// A line without what differs from run to run. These are the rules:
///
/// - a number is `9`, also one with a fraction or with dots, like a version or an address;
/// - so is a key, eight hexadecimal digits;
/// - a time is `9 s`, in whichever unit, and an amount of memory `9 B`;
/// - so is the kernel's release, which comes after `Linux`;
/// - a bar (`░█`) is nothing, and any space as good as another.
#[must_use]
pub fn shape(line: &str) -> String {
    let words = line.split(|c: char| c.is_whitespace() || is_bar(c)).filter(|word| !word.is_empty());
    let words = words.map(|word| if is_key(word) { "9".into() } else { unit(&numbers(word)) });
    let text = words.collect::<Vec<String>>().join(" ");
    let text = match text.split_once("Linux ") {
        Some((before, release)) => {
            format!("{before}Linux 9{}", release.trim_start_matches(|c: char| !c.is_whitespace()))
        }
        None => text,
    };
    let units = [("9 ms", "9 s"), ("9 µs", "9 s"), ("9 s 9 s", "9 s")];
    units.into_iter().fold(text, |text, (from, to)| text.replace(from, to))
}

fn is_bar(c: char) -> bool {
    matches!(c, '\u{2580}'..='\u{259f}')
}

fn is_key(word: &str) -> bool {
    word.len() == 8 && word.bytes().all(|it| it.is_ascii_digit() || (b'a'..=b'f').contains(&it))
}

/// Puts `9` in place of each number.
fn numbers(word: &str) -> String {
    let mut text = String::new();
    let mut left = word.chars().peekable();
    while let Some(c) = left.next() {
        if !c.is_ascii_digit() {
            text.push(c);
            continue;
        }
        text.push('9');
        loop {
            while left.next_if(char::is_ascii_digit).is_some() {}
            let mut ahead = left.clone();
            // A dot within the number, and not one that ends a sentence.
            if ahead.next() != Some('.') || !ahead.next().is_some_and(|it| it.is_ascii_digit()) {
                break;
            }
            let _ = left.next();
        }
    }
    text
}

/// `9ms` and `9.7M` with one unit for all.
fn unit(word: &str) -> String {
    let (word, end) = match word.strip_suffix([',', ';', ')']) {
        Some(inner) => word.split_at(inner.len()),
        None => (word, ""),
    };
    match word {
        "9ns" | "9µs" | "9ms" | "9s" | "9m" | "9h" => format!("9 s{end}"),
        "9B" | "9K" | "9M" | "9G" => format!("9 B{end}"),
        _ => format!("{word}{end}"),
    }
}

/// Why `said` is not what is `shown`, in which a line `…` stands for any lines. What commands say each second while they
/// wait counts for nothing: it depends on how fast the machine is.
#[must_use]
pub fn difference(shown: &str, said: &str) -> Option<String> {
    let lines = |text: &str| -> Vec<String> {
        text.lines().map(shape).filter(|line| !line.is_empty() && !line.contains(": waits for ")).collect()
    };
    let (shown, said) = (lines(shown), lines(said));
    if fits(&shown, &said) {
        return None;
    }
    let missing = shown.iter().find(|line| *line != "…" && !said.contains(line));
    let strange = said.iter().find(|line| !shown.contains(line));
    Some(format!("shown and not said: {missing:?}; said and not shown: {strange:?}"))
}

fn fits(shown: &[String], said: &[String]) -> bool {
    match shown.split_first() {
        None => said.is_empty(),
        Some((line, rest)) if line == "…" => (0..=said.len()).any(|from| fits(rest, &said[from..])),
        Some((line, rest)) => said.first() == Some(line) && fits(rest, &said[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::{difference, shape};

    #[test]
    fn what_differs_from_run_to_run_is_gone_and_words_are_not() {
        for (line, is) in [
            ("  demo/0  ready    18806     0       1  25.00%", "demo/9 ready 9 9 9 9%"),
            ("reuseport-lb 0.1.0, pid 18573, Linux 6.18.44-fc-v6", "reuseport-lb 9, pid 9, Linux 9"),
            ("peer=[::1]:57236, key 8c227463 bucket 29795 → demo/0", "peer=[::9]:9, key 9 bucket 9 → demo/9"),
            ("gone after 2.1 s", "gone after 9 s"),
            ("gone after 850 ms", "gone after 9 s"),
            ("SINCE 1m 30s, 12.9µs", "SINCE 9 s, 9 s"),
            ("░░░░░    0  0.0%    7.7M", "9 9% 9 B"),
        ] {
            assert_eq!(shape(line), is, "{line}");
        }
    }

    #[test]
    fn any_lines_may_stand_in_place_of_dots() {
        assert_eq!(difference("a 1\n…\nb", "a 2\nx\ny\nb"), None);
        assert_eq!(difference("…\nb\n", "b\n"), None);
        assert!(difference("a\nb", "a\nc").unwrap().contains("\"b\""));
        assert!(difference("a\n", "a\nb\n").unwrap().contains("not shown: Some(\"b\")"));
        assert!(difference("failed -", "failed 7").is_some());
    }
}
