//! What the plots of the benchmarks are drawn with.
//!
//! Written by hand, because a plotting crate cannot give text and shapes CSS
//! classes, by which one file suits both a light and a dark page. Each plot has a
//! background of its own, so that it can also be read where page and system
//! disagree about the colour scheme.

use std::fmt::Write;

/// Height of a bar, in pixels of the drawing.
pub(crate) const BAR: f64 = 11.0;

const STYLE: &str = "\
text{font-family:-apple-system,BlinkMacSystemFont,'Segoe UI','Noto Sans',Helvetica,Arial,sans-serif;\
font-size:11.5px;fill:#1f2328}\
.page{fill:#ffffff;stroke:#d1d9e0}\
.title{font-size:17px;font-weight:600}.panel{font-size:13.5px;font-weight:600}\
.note,.row{fill:#59636e}.line{stroke:#d1d9e0}.ours{font-weight:600}\
.bar0{fill:#0969da}.bar1{fill:#aeb6bf}.bar2{fill:#d6b878}.bar3{fill:#b9a3d0}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.page{fill:#0d1117;stroke:#30363d}\
.note,.row{fill:#9198a1}.line{stroke:#30363d}\
.bar0{fill:#4493f8}.bar1{fill:#59636e}.bar2{fill:#7d6534}.bar3{fill:#66557a}}";

/// A whole plot: `body` on a page of its own, with `label` for those who cannot
/// see it.
pub(crate) fn page(label: &str, width: f64, height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"{label}\">\n\
         <style>{STYLE}</style>\n<rect class=\"page\" x=\"0.5\" y=\"0.5\" \
         width=\"{}\" height=\"{}\" rx=\"8\"/>\n{body}</svg>\n",
        width - 1.0,
        height - 1.0
    )
}

/// A bar from `x` to the right.
pub(crate) fn rect(body: &mut String, class: &str, x: f64, y: f64, width: f64) {
    // Writing to a String cannot fail.
    let _ = writeln!(
        body,
        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
         height=\"{BAR}\" rx=\"1.5\"/>"
    );
}

/// Text that begins at `x`, its base line at `y`. Escape what is not known.
pub(crate) fn line_of_text(body: &mut String, class: &str, x: f64, y: f64, text: &str) {
    let _ = writeln!(
        body,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"
    );
}

/// Text as XML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
