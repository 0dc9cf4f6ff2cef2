//! State file: whatever bytes are there, reading them ends; and what is read is written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reuseport_lb::state;
use xxhash_rust::xxh3::xxh3_64;

fuzz_target!(|json: &[u8]| {
    // As it is, which nearly always has a wrong sum, and with the right one.
    let _ = state::parse(json);
    let whole = [format!("{:016x}\n", xxh3_64(json)).as_bytes(), json].concat();
    if let Ok(read) = state::parse(&whole) {
        let written = state::serialized(&read).expect("it can be written");
        assert_eq!(state::parse(&written).as_ref(), Ok(&read));
    }
});
