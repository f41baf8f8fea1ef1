//! An account for people: a row for each kernel, then the sum by kind against the wall clock. It computes no time.

use super::account::{Account, Row};
use crate::format::{push, seconds, short};
use crate::machine::MachineSummary;

/// Rows below this share of a step are added up in one.
const LEAST_SHARE: f64 = 0.001;
/// Columns of a kernel's name.
const NAME: usize = 64;

/// The account as text.
pub fn text(title: &str, account: &Account, machine: &MachineSummary) -> String {
    let mut out = String::new();
    push(
        &mut out,
        format_args!(
            "{title}: {} a step (mean of the {} faster of {}), {} where nothing is recorded; {} {}, {} GFLOP/s, {} GB/s \
             {}\n",
            seconds(account.wall),
            account.steps[0],
            account.steps[1],
            seconds(account.plain),
            machine.threads,
            if machine.vector_bytes > 0 { "threads" } else { "multiprocessors" },
            short(machine.peak_flops_per_second / 1e9),
            short(machine.memory_bytes_per_second / 1e9),
            if machine.vector_bytes > 0 { "measured" } else { "published" },
        ),
    );
    out.push_str("  share        ms  predicted  waiting  launches  GFLOP/s      GB/s  roofline  kind                   kernel\n");
    let shown = |row: &&Row| row.seconds() >= LEAST_SHARE * account.wall;
    for row in account.rows.iter().filter(shown) {
        let time = row.seconds();
        push(
            &mut out,
            format_args!(
                "{:6.1}% {:9.3} {:10.3} {:7.1}% {:9} {:>8} {:>9} {:8.0}%  {:22} {}\n",
                100.0 * time / account.wall,
                time * 1e3,
                row.predicted * 1e3,
                100.0 * row.waiting / time,
                row.launches.round(),
                short(row.flops / time / 1e9),
                short(row.bytes / time / 1e9),
                100.0 * row.floor / time,
                row.family.name(),
                cut(&format!("{}: {}", row.entry.name(), row.name)),
            ),
        );
    }
    let small: Vec<&Row> = account.rows.iter().filter(|row| !shown(row)).collect();
    if !small.is_empty() {
        let sum = |of: fn(&Row) -> f64| small.iter().map(|row| of(row)).sum::<f64>();
        let time = sum(Row::seconds);
        push(
            &mut out,
            format_args!(
                "{:6.1}% {:9.3} {:10.3} {:7.1}% {:9} {:52} {} kernels below {} % each\n",
                100.0 * time / account.wall,
                time * 1e3,
                1e3 * sum(|row| row.predicted),
                100.0 * sum(|row| row.waiting) / time.max(f64::MIN_POSITIVE),
                sum(|row| row.launches).round(),
                "",
                small.len(),
                100.0 * LEAST_SHARE
            ),
        );
    }
    out.push_str("  by kind\n");
    for (name, time) in account.kinds() {
        push(&mut out, format_args!("{:6.1}% {:9.3}  {name}\n", 100.0 * time / account.wall, time * 1e3));
    }
    let share = 100.0 * account.attributed() / account.wall;
    push(
        &mut out,
        format_args!("{share:6.1}% {:9.3}  of the wall clock has an owner\n", account.attributed() * 1e3),
    );
    if account.lost > 0 {
        push(&mut out, format_args!("{} slices found no room; their time is unattributed\n", account.lost));
    }
    out
}

fn cut(name: &str) -> String {
    match name.char_indices().nth(NAME) {
        Some((at, _)) => format!("{}…", &name[..at]),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::account::tests::example;
    use super::*;

    #[test]
    fn the_table_says_whose_the_time_is() {
        let machine = MachineSummary {
            target: "here".to_owned(),
            processor: "a processor".to_owned(),
            threads: 2,
            vector_bytes: 64,
            peak_flops_per_second: 1e11,
            memory_bytes_per_second: 1e10,
            currency: "USD".to_owned(),
            price_per_hour: 1.0,
            price_basis: String::new(),
        };
        let account = Account::of(&example());
        let text = text("an example", &account, &machine);
        assert!(
            text.starts_with("an example: 640 µs a step (mean of the 2 faster of 2), 615 µs where"),
            "{text}"
        );
        for part in
            ["train: gate", "train: scores", "update: step", "attention", "optimiser", "outside of runs"]
        {
            assert!(text.contains(part), "no `{part}` in {text}");
        }
        assert!(text.contains("  98.1%     0.628  of the wall clock has an owner"), "{text}");
        // 1 MFLOP and 100 kB take 10 µs at the least, of 98.
        let step = text.lines().find(|line| line.ends_with("update: step")).unwrap();
        assert!(step.contains(" 10% "), "{step}");
        assert_eq!(cut(&"é".repeat(100)).chars().count(), NAME + 1);
    }
}
