//! Makes inputs of other inputs: deterministic, and without feedback; libFuzzer is for that.

use std::ops::Range;

/// The longest input.
const MOST: usize = 8 << 10;
/// Changes of one input.
const CHANGES: usize = 6;

/// What parsers have been known to stumble over.
const WORDS: [&[u8]; 40] = [
    b"\0",
    b"\n",
    b"\r\n",
    b" ",
    b"\t",
    b"\x7f",
    b"\x1b[2J",
    b"\xff",
    b"\xc3\xa9",
    b"\xf0\x9f\x92\xa5",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xae",
    b"0",
    b"-1",
    b"00",
    b"127",
    b"256",
    b"65536",
    b"2147483648",
    b"9223372036854775807",
    b"9223372036854775808",
    b"18446744073709551616",
    b"1e400",
    b"1e-20000",
    b"0.1",
    b"NaN",
    b"\\u0000",
    b"\\ud800",
    b"\"",
    b"'",
    b"$$",
    b";",
    b"--",
    b"/*",
    b"((((((((",
    b"[[[[[[[[",
    b"{\"\":",
    b"---",
    b"#",
    b"*",
];

/// Numbers that a seed decides (splitmix64, so that it decides the same for good).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to, and without, `most`; 0 where there is nothing to choose from.
    fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// A short piece of something.
    fn piece<'a>(&mut self, of: &'a [u8]) -> &'a [u8] {
        let from = self.below(of.len());
        let length = 1 << self.below(8);
        &of[from..of.len().min(from + self.below(length) + 1)]
    }
}

/// Where a word or a number begins and ends.
fn word_at(text: &[u8], at: usize) -> Range<usize> {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-$@".contains(byte);
    let before = text[..at].iter().rev().take_while(|byte| is_part(byte)).count();
    let after = text[at..].iter().take_while(|byte| is_part(byte)).count();
    at - before..at + after
}

/// One of the seeds, changed in a few places.
pub(super) fn mutate(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut input = random.pick(seeds).clone();
    for _ in 0..=random.below(CHANGES) {
        let at = random.below(input.len() + 1);
        let until = input.len().min(at + 1 + random.below(8));
        match random.below(10) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 => drop(input.splice(at..at, random.pick(&WORDS).iter().copied())),
            2 => drop(input.splice(at..until, random.pick(&WORDS).iter().copied())),
            3 => drop(input.drain(at..until)),
            4 => {
                let again = random.piece(&input).repeat(1 << random.below(6));
                drop(input.splice(at..at, again));
            }
            5 => {
                let other = random.pick(seeds);
                drop(input.splice(at..at, random.piece(other).iter().copied()));
            }
            6 => {
                let other = random.pick(seeds);
                drop(input.splice(at..until, random.piece(other).iter().copied()));
            }
            // A word for a word: what is text often stays well-formed.
            _ => {
                let other = random.pick(seeds);
                let word = word_at(other, random.below(other.len() + 1));
                drop(input.splice(word_at(&input, at), other[word].iter().copied()));
            }
        }
    }
    input.truncate(MOST);
    input
}
