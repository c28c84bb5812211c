//! A table of a page, which no screen cuts: where it is narrow a row is a block of its values, each behind its column's head.
//!
//! In: heads, and cells as HTML, each with a class. Out: HTML that `page.css` lays out.

use crate::report::escape;

/// Classes of columns: words on the left, as wide as they need; words that may fill a line; figures.
pub const NAME: &str = "name";
pub const WHY: &str = "why";
pub const FIGURE: &str = "";

/// Heads with their columns' classes, and rows so far.
pub struct PageTable<'a> {
    heads: Vec<(&'a str, &'static str)>,
    rows: String,
}

impl<'a> PageTable<'a> {
    pub fn new(heads: impl IntoIterator<Item = (&'a str, &'static str)>) -> PageTable<'a> {
        PageTable { heads: heads.into_iter().collect(), rows: String::new() }
    }

    /// A row of cells, HTML each, with what class a cell has beside its column's.
    pub fn row(&mut self, cells: &[(String, &str)]) {
        let cell = |((value, more), (head, class)): (&(String, &str), &(&str, &str))| {
            let classes = format!("{class} {more}");
            let class = match classes.trim() {
                "" => String::new(),
                classes => format!(" class=\"{classes}\""),
            };
            let head = if head.is_empty() { String::new() } else { format!(" data-head=\"{}\"", escape(head)) };
            format!("<td{class}{head}>{value}</td>")
        };
        let cells: String = cells.iter().zip(&self.heads).map(cell).collect();
        self.rows += &format!("<tr>{cells}</tr>\n");
    }

    pub fn html(&self) -> String {
        let head = |(head, class): &(&str, &str)| match *class {
            "" => format!("<th>{}</th>", escape(head)),
            class => format!("<th class=\"{class}\">{}</th>", escape(head)),
        };
        let heads: String = self.heads.iter().map(head).collect();
        format!("<table class=\"wide\"><thead><tr>{heads}</tr></thead><tbody>\n{}</tbody></table>", self.rows)
    }
}
