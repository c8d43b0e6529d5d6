//! The layout of every matrix in the forward pass: columns grouped in panels of [`WIDTH`].
//!
//! Panel `p` holds columns `32 p .. 32 p + 32` of all rows, one 128-byte [`Row`] after another. A
//! kernel tile then reads and writes contiguous, aligned memory whatever the matrix's width, one
//! attention head is one panel, and a text is a range of rows: texts of different lengths lie
//! one after another without padding.

/// Columns per panel; also the width of an attention head and of a kernel tile.
pub const WIDTH: usize = 32;

/// One row of one panel. The alignment keeps vector loads within a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Row(pub [f32; WIDTH]);

impl Row {
    /// All zeros.
    pub const ZERO: Self = Self([0.0; WIDTH]);
}

/// A block of [`WIDTH`] × [`WIDTH`] numbers, `block[input][output]`.
pub type Block = [Row; WIDTH];

/// Borrowed panels: row `r` of panel `p` is `data[p * stride + r]`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The rows, beginning with the first one of interest.
    pub data: &'a [Row],
    /// Distance between equal rows of neighbouring panels.
    pub stride: usize,
}

/// An owned matrix in panels.
pub struct Panels {
    data: Vec<Row>,
    rows: usize,
    stride: usize,
}

impl Panels {
    /// A zero matrix. Each panel is followed by [`WIDTH`] spare rows, so that a block which begins
    /// at the last row stays inside the panel.
    pub fn zeros(rows: usize, panels: usize) -> Self {
        let stride = rows + WIDTH;
        Self { data: vec![Row::ZERO; stride * panels], rows, stride }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Distance between equal rows of neighbouring panels.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The panels from `panel` on, each from row `row` on.
    pub fn view(&self, panel: usize, row: usize) -> View<'_> {
        View { data: &self.data[panel * self.stride + row..], stride: self.stride }
    }

    /// The same as [`Panels::view`], to write to.
    pub fn data_mut(&mut self, panel: usize, row: usize) -> &mut [Row] {
        &mut self.data[panel * self.stride + row..]
    }
}

/// Splits a vector whose length is a multiple of [`WIDTH`] into rows.
pub fn to_rows(values: &[f32]) -> Vec<Row> {
    values.as_chunks::<WIDTH>().0.iter().map(|chunk| Row(*chunk)).collect()
}
