//! What instructions touch, and what must therefore have ended before them.
//!
//! In: a stage's buffers and instructions, in order. Out: for each instruction, the latest one of each other stream that it
//! depends on; whether what it reads was written.
//!
//! Each buffer is a list of segments, split where views begin and end; a segment knows who wrote it last, who read it
//! since, and whether it holds anything. Programs use the same few views again and again, so lists stay short and the cost
//! is near-linear in instructions.
//!
//! Invariant: list order is the meaning of a program; streams may only reorder what does not touch.

use crate::mesh::Mesh;
use crate::op::Mode;
use crate::program::{Block, Buffer, Instr, Kind, Lifetime, Stream, View};

/// By stream, one past its latest instruction that something depends on; 0 if there is none.
pub(crate) type Latest = [u32; Stream::COUNT];

/// How a block uses a formal argument.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FormalUse {
    /// Reads what was there before.
    pub reads: bool,
    /// Writes at least a part.
    pub writes: bool,
}

/// How a block uses its formals.
pub(crate) fn formal_uses(block: &Block) -> Vec<FormalUse> {
    let mut uses = vec![FormalUse::default(); block.params.len()];
    for call in &block.calls {
        let signature = call.op.signature();
        // Reads of a call come before its writes.
        for (arg, param) in call.args.iter().zip(&signature) {
            let Some(formal) = uses.get_mut(arg.param as usize) else { continue };
            formal.reads |= param.mode != Mode::Out && !formal.writes;
        }
        for (arg, param) in call.args.iter().zip(&signature) {
            let Some(formal) = uses.get_mut(arg.param as usize) else { continue };
            let whole = arg.offset == 0 && block.params[arg.param as usize].elems == param.elems;
            if param.mode != Mode::In {
                formal.reads |= !whole && !formal.writes; // what is not overwritten must have been there
                formal.writes = true;
            }
        }
    }
    uses
}

/// A touch of a part of a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BufferAccess {
    pub buffer: u32,
    pub start: usize,
    pub end: usize,
    pub reads: bool,
    pub writes: bool,
    /// The contents end here.
    pub frees: bool,
}

/// Calls `each` for all that an instruction touches.
pub(crate) fn accesses(
    instr: &Instr,
    uses: &[Vec<FormalUse>],
    mesh: &Mesh,
    buffers: &[Buffer],
    mut each: impl FnMut(BufferAccess),
) {
    let of = |view: &View, reads, writes| {
        let extent = view.extent(mesh);
        BufferAccess { buffer: view.buffer, start: extent.start, end: extent.end, reads, writes, frees: false }
    };
    match &instr.kind {
        Kind::Load { into: view, .. } | Kind::Recv { view, .. } => each(of(view, false, true)),
        Kind::Send { view, .. } => each(of(view, true, false)),
        Kind::Move { from, to } => {
            each(of(from, true, false));
            each(of(to, false, true));
        }
        Kind::Collective { view, .. } => each(of(view, true, true)),
        Kind::Run { block, args, .. } => {
            let uses = &uses[*block as usize];
            // All reads of what was there come before all writes.
            args.iter().zip(uses).filter(|(_, used)| used.reads).for_each(|(view, _)| each(of(view, true, false)));
            args.iter().zip(uses).filter(|(_, used)| used.writes).for_each(|(view, _)| each(of(view, false, true)));
        }
        Kind::Free { buffers: freed } => {
            for &buffer in freed {
                let end = buffers[buffer as usize].elems;
                each(BufferAccess { buffer, start: 0, end, reads: false, writes: true, frees: true });
            }
        }
    }
}

/// A part of a buffer whose elements share their past.
#[derive(Clone, Copy, Debug)]
struct BufferSegment {
    start: usize,
    /// By stream, the last write, if it was that stream's.
    writes: Latest,
    /// By stream, the last read since.
    reads: Latest,
    /// Whether it holds anything.
    holds: bool,
}

/// What a touch found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Touch {
    /// What it depends on, by stream; nothing of its own.
    pub others: Latest,
    /// Whether all of the part held something before.
    pub held: bool,
    /// Whether any of it did.
    pub held_any: bool,
}

/// The pasts of a stage's buffers.
pub(crate) struct Tracker {
    segments: Vec<Vec<BufferSegment>>,
    elems: Vec<usize>,
}

impl Tracker {
    pub fn new(buffers: &[Buffer]) -> Self {
        let whole = |buffer: &Buffer| {
            let holds = matches!(buffer.lifetime, Lifetime::Persistent | Lifetime::HostPersistent);
            vec![BufferSegment { start: 0, writes: Latest::default(), reads: Latest::default(), holds }]
        };
        Tracker { segments: buffers.iter().map(whole).collect(), elems: buffers.iter().map(|b| b.elems).collect() }
    }

    /// Whether any of a buffer holds something.
    pub fn holds(&self, buffer: usize) -> bool {
        self.segments[buffer].iter().any(|segment| segment.holds)
    }

    /// Takes note of an access by instruction `index` of a stream.
    pub fn touch(&mut self, access: &BufferAccess, stream: usize, index: u32) -> Touch {
        let segments = &mut self.segments[access.buffer as usize];
        let first = split(segments, access.start);
        let last =
            if access.end >= self.elems[access.buffer as usize] { segments.len() } else { split(segments, access.end) };
        let mut found = Touch { others: Latest::default(), held: true, held_any: false };
        let all = |latest: &mut Latest, of: &Latest| latest.iter_mut().zip(of).for_each(|(a, b)| *a = (*a).max(*b));
        let mut before = Latest::default();
        for segment in &mut segments[first..last] {
            all(&mut before, &segment.writes);
            found.held &= segment.holds;
            found.held_any |= segment.holds;
            if access.writes {
                all(&mut before, &segment.reads);
                (segment.writes, segment.reads) = (Latest::default(), Latest::default());
                segment.writes[stream] = index + 1;
                segment.holds = !access.frees;
            } else if access.reads {
                segment.reads[stream] = index + 1;
            }
        }
        before[stream] = 0;
        found.others = before;
        found
    }
}

/// The index of the segment that starts at `at`, which is made if there is none.
fn split(segments: &mut Vec<BufferSegment>, at: usize) -> usize {
    match segments.binary_search_by_key(&at, |segment| segment.start) {
        Ok(index) => index,
        Err(index) => {
            let before = segments[index - 1];
            segments.insert(index, BufferSegment { start: at, ..before });
            index
        }
    }
}
