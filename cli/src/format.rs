//! Numbers and lines as people read them. It knows no quantity of ours.

use std::fmt::Write;

/// With separators: `12,345`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three significant digits, with separators from 1000 on: `0.0123`, `4.56`, `12,345`.
pub fn short(number: f64) -> String {
    if !number.is_finite() {
        return "–".to_owned();
    }
    let magnitude = if number == 0.0 { 0 } else { number.abs().log10().floor() as i32 };
    match magnitude {
        3.. => format!("{}{}", if number < 0.0 { "-" } else { "" }, thousands(number.abs().round() as u64)),
        _ => format!("{number:.*}", (2 - magnitude).clamp(0, 8) as usize),
    }
}

/// `1.50 MiB`.
pub fn bytes(bytes: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = if bytes < 1.0 { 0 } else { ((bytes.log2() / 10.0) as usize).min(units.len() - 1) };
    match power {
        0 => format!("{bytes:.0} B"),
        _ => format!("{} {}", short(bytes / 1024f64.powi(power as i32)), units[power]),
    }
}

/// The bytes that `600MiB`, `1.5 GB` or `123456` mean; `None` where it is no such text.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let letters = unit.trim().to_ascii_lowercase();
    let (scale, base) = match letters.strip_suffix("ib").map(|scale| (scale, 1024f64)) {
        Some(binary) => binary,
        None => (letters.strip_suffix('b').unwrap_or(&letters), 1000.0),
    };
    let power = ["", "k", "m", "g", "t"].iter().position(|known| *known == scale)?;
    // Beyond 2^53 a float no longer counts single bytes.
    let bytes = (number * base.powi(power as i32)).round();
    (bytes < 9e15).then_some(bytes as u64)
}

/// `1.2 ms`, `3.40 s`, `2 min 05 s`.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{} µs", short(s * 1e6)),
        s if s < 1.0 => format!("{} ms", short(s * 1e3)),
        s if s < 120.0 => format!("{} s", short(s)),
        s => format!("{} min {:02} s", s as u64 / 60, s as u64 % 60),
    }
}

/// A text whose lines have at most so many columns, where they have spaces to break at; what goes on is indented by four
/// more.
pub fn wrapped(text: &str, columns: usize) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let words = line.trim_start();
        let indent = line.len() - words.len();
        let (mut column, mut first) = (0, true);
        for word in words.split(' ') {
            let length = word.chars().count();
            match first {
                true => column = indent,
                false if column + 1 + length > columns => {
                    out.push('\n');
                    column = indent + 4;
                }
                false => {
                    out.push(' ');
                    column += 1;
                }
            }
            if first || out.ends_with('\n') {
                out.extend(std::iter::repeat_n(' ', column));
            }
            out.push_str(word);
            column += length;
            first = false;
        }
        out.push('\n');
    }
    out
}

/// Rows of cells, each column as wide as its widest cell, two spaces apart. Cells stand at the right of their column, in the
/// last one at the left. Rows may be of different lengths.
pub fn columns(rows: &[Vec<String>]) -> String {
    let width = |text: &String| text.chars().count();
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(width).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(widest).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let fill = if at + 1 == count { 0 } else { widths[at] - width(cell) };
            let gap = if at == 0 { 0 } else { 2 };
            line.extend(std::iter::repeat_n(' ', gap + fill));
            line.push_str(cell);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Writes to the end.
pub fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_wrapped() {
        assert_eq!(wrapped("  one two three\n\nfour  five\n", 10), "  one two\n      three\n\nfour  five\n");
        assert_eq!(
            wrapped("a_word_that_is_longer than that", 8),
            "a_word_that_is_longer\n    than\n    that\n"
        );
    }

    #[test]
    fn cells_stand_under_each_other() {
        let rows = [["ms", "share", "kernel"], ["1.50", "7%", "é"], ["12", "100%", "long name"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(columns(&rows), "  ms  share  kernel\n1.50     7%  é\n  12   100%  long name\n");
        assert_eq!(columns(&[]), "");
    }

    #[test]
    fn sizes_are_read() {
        let read = ["600MiB", "1.5 GB", "123456", "2k", "7 KiB", "0", "12b"].map(parse_bytes);
        let bytes = [600 << 20, 1_500_000_000, 123_456, 2000, 7 << 10, 0, 12];
        assert_eq!(read, bytes.map(Some));
        assert_eq!(
            ["", "MiB", "-1", "1 XB", "1.2.3 MB", "inf", "1e3", "99999999 TiB"].map(parse_bytes),
            [None; 8]
        );
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0, 12, 999, 1000, 1234567].map(thousands), ["0", "12", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0.0, 0.01234, 4.5678, 45.678, 456.78, 45678.9, -0.5].map(short),
            ["0.00", "0.0123", "4.57", "45.7", "457", "45,679", "-0.500"]
        );
        assert_eq!([0.0, 1023.0, 1536.0, 5e9].map(bytes), ["0 B", "1023 B", "1.50 KiB", "4.66 GiB"]);
        assert_eq!([2e-6, 0.0123, 3.4, 125.0].map(seconds), ["2.00 µs", "12.3 ms", "3.40 s", "2 min 05 s"]);
        assert_eq!(short(f64::NAN), "–");
    }
}
