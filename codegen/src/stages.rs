//! Compile time by stage: every second has an owner. It measures and adds up;
//! it knows no stage.

use diptych_passes::algebra::RegionSeconds;
use std::time::Instant;

/// Seconds by the name of a stage, in the order in which they were first met.
pub type Stages = Vec<(String, f64)>;

/// Adds to the seconds of a stage.
pub fn note(stages: &mut Stages, name: &str, seconds: f64) {
    match stages.iter_mut().find(|stage| stage.0 == name) {
        Some(stage) => stage.1 += seconds,
        None => stages.push((name.to_owned(), seconds)),
    }
}

/// Seconds of all stages.
pub fn total(stages: &Stages) -> f64 {
    stages.iter().map(|stage| stage.1).sum()
}

/// A clock that leaves no gap between stages: one begins where the last has ended.
pub(crate) struct Laps<'a> {
    stages: &'a mut Stages,
    start: Instant,
}

impl<'a> Laps<'a> {
    /// The first stage begins.
    pub fn new(stages: &'a mut Stages) -> Laps<'a> {
        Laps { stages, start: Instant::now() }
    }

    /// A stage ends.
    pub fn lap(&mut self, name: &str) {
        self.lap_of([], name);
    }

    /// A stage ends of which parts were measured by those who did them; what they leave goes to `rest`.
    pub fn lap_of<'n>(&mut self, parts: impl IntoIterator<Item = (&'n str, f64)>, rest: &str) {
        let now = Instant::now();
        let mut left = (now - self.start).as_secs_f64();
        for (name, seconds) in parts {
            note(self.stages, name, seconds);
            left -= seconds;
        }
        note(self.stages, rest, left.max(0.0));
        self.start = now;
    }
}

/// What equality saturation took, region by region.
pub(crate) fn lap_of_algebra(laps: &mut Laps<'_>, name: &str, seconds: &[RegionSeconds]) {
    let of_region = |region: &RegionSeconds| {
        let of = region.name;
        region.seconds.parts().map(move |(part, seconds)| (format!("{name}, {of}: {part}"), seconds))
    };
    let parts: Vec<(String, f64)> = seconds.iter().flat_map(of_region).collect();
    laps.lap_of(parts.iter().map(|part| (part.0.as_str(), part.1)), &format!("{name}, the rest"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn laps_add_up() {
        let mut stages = Vec::new();
        let start = Instant::now();
        let mut laps = Laps::new(&mut stages);
        std::thread::sleep(Duration::from_millis(3));
        laps.lap_of([("part", 0.001)], "rest");
        std::thread::sleep(Duration::from_millis(2));
        laps.lap("other");
        laps.lap_of([("part", 0.0)], "rest");
        let wall = start.elapsed().as_secs_f64();
        let names: Vec<&str> = stages.iter().map(|stage| stage.0.as_str()).collect();
        assert_eq!(names, ["part", "rest", "other"]);
        assert_eq!(stages[0].1, 0.001);
        assert!(stages[1].1 >= 0.002 && stages[2].1 >= 0.002, "{stages:?}");
        assert!(total(&stages) <= wall && total(&stages) >= 0.005, "{stages:?} of {wall}");
    }
}
