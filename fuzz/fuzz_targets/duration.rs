#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    eve_host::fuzzing::duration(data);
});
