//! Text → configuration: an error names a line that is there, and what is accepted is valid and can be
//! written down and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reuseport_lb::config::{self, Invalid, ServiceConfig};

fuzz_target!(|text: &str| {
    match config::parse(text, config::Machine::ANOTHER) {
        Ok(all) => all.services.iter().for_each(accepted),
        Err(Invalid(error)) => {
            assert!(!error.is_empty());
            if let Some((number, _)) = error.strip_prefix("line ").and_then(|rest| rest.split_once(':')) {
                let number: usize = number.parse().expect("a number of a line");
                // A file that ends too early is wrong in the line behind its last one.
                assert!(number >= 1 && number <= text.matches('\n').count() + 1, "{error}");
            }
        }
    }
});

fn accepted(service: &ServiceConfig) {
    service.validate().expect("what was accepted is valid");
    // As the state file does it.
    let text = serde_json::to_string(service).expect("a service can be written");
    let read: ServiceConfig = serde_json::from_str(&text).expect("and read");
    assert_eq!(&read, service, "{text}");
    for listener in service.listeners() {
        assert_eq!(listener.to_string().parse(), Ok(*listener));
        assert!(!listener.plain_name().contains(['/', ':']));
    }
}
