//! The log of a refused text with the lines that it speaks of. The compiler quotes its own; the assembler only counts
//! lines of the PTX in between, so here they are shown, with the lines of the source that they came from.

/// How many of the assembler's messages are shown.
const MOST: usize = 20;

/// The log, with the line of PTX and of the source below each message that only has a number.
pub(crate) fn quoted(log: &str, ptx: &str, source: &str, name: &str) -> String {
    let (ptx, source): (Vec<&str>, Vec<&str>) = (ptx.lines().collect(), source.lines().collect());
    let mut lines: Vec<String> = Vec::new();
    let (mut messages, mut last) = (0, None);
    for line in log.trim_end().lines() {
        let Some(number) = line_of_ptx(line) else {
            lines.push(line.to_owned());
            continue;
        };
        messages += 1;
        if messages > MOST {
            continue;
        }
        lines.push(line.to_owned());
        if last.replace(number) == Some(number) {
            continue;
        }
        if let Some(text) = number.checked_sub(1).and_then(|index| ptx.get(index)) {
            lines.push(shortened(text));
        }
        if let Some(of_source) = line_of_source(&ptx, number)
            && let Some(text) = of_source.checked_sub(1).and_then(|index| source.get(index))
        {
            lines.push(format!("  {name}({of_source}):"));
            lines.push(shortened(text));
        }
    }
    if messages > MOST {
        lines.push(format!("… and {} more of the assembler's messages", messages - MOST));
    }
    lines.join("\n")
}

/// A line of code. One of wgmma names up to 256 registers.
fn shortened(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(100) {
        Some((end, _)) => format!("    {} …", &text[..end]),
        None => format!("    {text}"),
    }
}

/// The number in `ptxas …, line 28; error : …`.
fn line_of_ptx(message: &str) -> Option<usize> {
    let (_, rest) = message.strip_prefix("ptxas ")?.split_once(", line ")?;
    rest.split_once(';')?.0.trim().parse().ok()
}

/// The line of the source in the last `.loc FILE LINE COLUMN` before a line of PTX.
fn line_of_source(ptx: &[&str], number: usize) -> Option<usize> {
    let before = ptx.get(..number)?;
    let place = before.iter().rev().find_map(|line| line.trim().strip_prefix(".loc"))?;
    place.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX: &str = "{\n\t.loc\t1 2 5\n\tbogus.op;\n\tret;\n}\n";
    const SOURCE: &str = "void k() {\n    asm(\"bogus.op;\");\n}\n";

    #[test]
    fn messages_of_the_assembler_get_both_lines_once() {
        let log = "ptxas application ptx input, line 3; error   : Unknown modifier '.op'\n\
                   ptxas application ptx input, line 3; error   : Not a name of any known instruction\n\
                   ptxas fatal   : Ptx assembly aborted due to errors\n";
        let expected = "ptxas application ptx input, line 3; error   : Unknown modifier '.op'\n    bogus.op;\n  \
                        k.cu(2):\n    asm(\"bogus.op;\");\n\
                        ptxas application ptx input, line 3; error   : Not a name of any known instruction\n\
                        ptxas fatal   : Ptx assembly aborted due to errors";
        assert_eq!(quoted(log, PTX, SOURCE, "k.cu"), expected);
    }

    #[test]
    fn what_cannot_be_quoted_stays_as_it_is() {
        for log in [
            "k.cu(2): error: expected a \";\"\n  }\n  ^",
            "ptxas application ptx input, line 900; error   : nowhere",
            "ptxas application ptx input, line 0; error   : nowhere",
            "ptxas application ptx input, line x; error   : nowhere",
        ] {
            assert_eq!(quoted(log, PTX, SOURCE, "k.cu"), log);
        }
    }

    #[test]
    fn a_flood_is_cut() {
        let log: String = (0..50).map(|_| "ptxas application ptx input, line 3; error   : again\n").collect();
        let quoted = quoted(&log, PTX, SOURCE, "k.cu");
        assert_eq!(quoted.matches("again").count(), MOST);
        assert!(quoted.ends_with("… and 30 more of the assembler's messages"), "{quoted}");
    }
}
