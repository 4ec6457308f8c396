//! Relative links in the documents lead to files that are there, and anchors to headings that are there.
//!
//! Links to other sites are not followed: a test of ours must not fail because somebody else's server does.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::{Finding, Tree, scan};

/// Every broken relative link in a Markdown file.
pub(super) fn broken(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in tree.with_extension("md") {
        let text = prose(&tree.text(path));
        for (at, target) in targets(&text) {
            if let Some(why) = fault(tree, path, &target) {
                findings.push(Finding::new(path, scan::line_of(&text, at), why));
            }
        }
    }
    findings
}

fn fault(tree: &Tree, from: &str, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") || target.is_empty() {
        return None;
    }
    let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let place = if file.is_empty() {
        PathBuf::from(from)
    } else {
        resolve(Path::new(from).parent().unwrap_or(Path::new("")), file)?
    };
    if !tree.root.join(&place).exists() {
        return Some(format!("links to {target}, which is not there"));
    }
    let anchor = anchor.filter(|anchor| !anchor.is_empty() && place.extension().is_some_and(|found| found == "md"))?;
    let headings = anchors(&tree.text(&place.to_string_lossy()));
    (!headings.iter().any(|heading| heading == anchor))
        .then(|| format!("links to {target}, but {} has no such heading", place.display()))
}

/// The file a link means, from the root; `None` when it leads out of the repository, as links to a forge's pages do.
fn resolve(folder: &Path, link: &str) -> Option<PathBuf> {
    let mut place = if link.starts_with('/') { PathBuf::new() } else { folder.to_path_buf() };
    for part in Path::new(link.trim_start_matches('/')).components() {
        match part {
            Component::ParentDir if !place.pop() => return None,
            Component::Normal(part) => place.push(part),
            _ => {}
        }
    }
    Some(place)
}

/// The text with fenced blocks and inline code blanked, newlines kept.
fn prose(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut fence: Option<&str> = None;
    for line in text.split_inclusive('\n') {
        let mark = ["```", "~~~"].into_iter().find(|mark| line.trim_start().starts_with(mark));
        match (fence, mark) {
            (None, Some(mark)) => fence = Some(mark),
            (Some(open), Some(mark)) if open == mark => fence = None,
            (None, None) => {
                let mut inside = false;
                for c in line.chars() {
                    inside ^= c == '`';
                    out.push(if (inside || c == '`') && c != '\n' { ' ' } else { c });
                }
                continue;
            }
            _ => {}
        }
        out.push('\n');
    }
    out
}

/// `[text](target)` and `[name]: target`, with where each stands.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("](") {
        let rest = &text[at + 2..];
        let end = rest.find([')', '\n']).unwrap_or(rest.len());
        found.push((at, rest[..end].split_whitespace().next().unwrap_or("").trim_matches(['<', '>']).to_owned()));
    }
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        if let Some((name, target)) = line.strip_prefix('[').and_then(|line| line.split_once("]: "))
            && !name.contains(']')
        {
            found.push((offset, target.split_whitespace().next().unwrap_or("").to_owned()));
        }
        offset += line.len();
    }
    found
}

/// The anchors forges make of headings: lower case, spaces to dashes, punctuation dropped, repeats numbered.
fn anchors(text: &str) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut anchors = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        let Some(heading) = (!fenced && line.starts_with('#')).then(|| line.trim_start_matches('#').trim()) else {
            continue;
        };
        let kept = heading.to_lowercase();
        let anchor: String = kept
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let repeats = seen.entry(anchor.clone()).or_insert(0);
        anchors.push(if *repeats == 0 { anchor.clone() } else { format!("{anchor}-{repeats}") });
        *repeats += 1;
    }
    anchors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::{Fixture, lines};

    #[test]
    fn links_to_nothing_are_caught() {
        let bad = Fixture::of(&[
            ("docs/a.md", "# A\n\n[x](b.md) [y](../gone.md) [z](#nowhere)\n[w]: c.md\n"),
            ("docs/b.md", "# B\n[x](a.md#b)\n"),
        ]);
        let found = lines(&broken(&bad.tree()));
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(found.iter().any(|line| line.starts_with("docs/a.md:3:") && line.contains("gone.md")), "{found:#?}");
    }

    #[test]
    fn good_links_code_and_other_sites_pass() {
        let good = Fixture::of(&[
            ("README.md", "[a](docs/a.md#two-words--here) [b](https://example.org/x) `[c](gone.md)`\n\n    \n"),
            (
                "docs/a.md",
                "# Two words, & here\n```\n[d](gone.md)\n```\n[up](../README.md) [src](..) [ci](../../../issues)\n",
            ),
        ]);
        assert_eq!(lines(&broken(&good.tree())), Vec::<String>::new());
    }
}
