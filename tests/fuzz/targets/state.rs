//! State file: whatever bytes are there, reading them ends; and what is read is written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reuseport_lb::service::state_file;
use xxhash_rust::xxh3::xxh3_64;

fuzz_target!(|json: &[u8]| {
    // As it is, which nearly always has a wrong sum, and with the right one.
    let _ = state_file::parse(json);
    let whole = [format!("{:016x}\n", xxh3_64(json)).as_bytes(), json].concat();
    if let Ok(read) = state_file::parse(&whole) {
        let written = state_file::serialized(&read).expect("it can be written");
        assert_eq!(state_file::parse(&written).as_ref(), Ok(&read));
    }
});
