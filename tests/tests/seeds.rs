//! The seeds of the fuzz targets that are right are still right: else fuzzing would hardly get behind
//! the first check.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use reuseport_lb::config;
use reuseport_lb::service::state_file;
use testkit::world::repository;
use xxhash_rust::xxh3::xxh3_64;

fn seed(path: &str) -> Vec<u8> {
    std::fs::read(repository().join("tests/fuzz/seeds").join(path)).unwrap()
}

#[test]
fn configurations_and_the_state_file_are_accepted() {
    for name in ["whole", "two", "least"] {
        let text = String::from_utf8(seed(&format!("config/{name}.toml"))).unwrap();
        config::parse(&text, config::Machine::ANOTHER).unwrap();
    }
    let json = seed("state/whole");
    let sum = format!("{:016x}\n", xxh3_64(&json));
    state_file::parse(&[sum.as_bytes(), &json].concat()).unwrap();
}
