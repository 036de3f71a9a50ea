//! Did you mean: the nearest legal word to one that is not.

/// The candidate nearest to `word`, if it is near enough to be what was meant.
pub(crate) fn nearest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let word = word.to_ascii_lowercase();
    if word.len() > 32 {
        return None;
    }
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .iter()
        .map(|candidate| (distance(&word, candidate), *candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edit distance in which exchanging two neighbours counts as one edit.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let width = b.len() + 1;
    let mut table = vec![0usize; (a.len() + 1) * width];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            let cost = if i == 0 || j == 0 {
                i + j
            } else {
                let substitute = table[(i - 1) * width + j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = substitute.min(table[(i - 1) * width + j] + 1).min(table[i * width + j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(table[(i - 2) * width + j - 2] + 1);
                }
                best
            };
            table[i * width + j] = cost;
        }
    }
    table[a.len() * width + b.len()]
}

/// `` `a`, `b` or `c` ``
pub(crate) fn list(words: &[&str], last: &str) -> String {
    match words {
        [] => String::new(),
        [word] => format!("`{word}`"),
        [init @ .., word] => {
            let init: Vec<String> = init.iter().map(|word| format!("`{word}`")).collect();
            format!("{} {last} `{word}`", init.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{list, nearest};

    #[test]
    fn finds_near_words_only() {
        assert_eq!(nearest("chanel", &["none", "scalar", "channel"]), Some("channel"));
        assert_eq!(nearest("dceay", &["decay", "erase"]), Some("decay"));
        assert_eq!(nearest("Scalar", &["none", "scalar"]), Some("scalar"));
        assert_eq!(nearest("banana", &["none", "scalar", "channel"]), None);
        assert_eq!(nearest("", &["none"]), None);
    }

    #[test]
    fn lists_read_as_english() {
        assert_eq!(list(&["a"], "or"), "`a`");
        assert_eq!(list(&["a", "b", "c"], "or"), "`a`, `b` or `c`");
    }
}
