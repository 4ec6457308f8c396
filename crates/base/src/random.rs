//! Chance as a port: pure code takes `&mut dyn Random`; the program passes [`SystemRandom`], tests [`Seeded`].

/// A source of random bits.
pub trait Random: Send {
    fn next_u64(&mut self) -> u64;

    /// A number in `0..bound`, or 0 when `bound` is 0. The bias (below 2⁻³² for bounds under 2³²) is
    /// harmless where it is used: jitter and ids.
    fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }
}

/// The kernel's generator (`getrandom(2)`).
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn next_u64(&mut self) -> u64 {
        getrandom::u64().expect("getrandom(2) works on every kernel Coppice starts on")
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): a repeatable stream from one seed, for tests and simulation.
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }
}

impl Random for Seeded {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
