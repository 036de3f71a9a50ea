//! What an access costs shared memory and global memory: passes over the banks, sectors of 32 bytes.

use super::lanes::{LANES, Lanes};

const BANKS: usize = 32;
/// No word: an address of a word is a quarter of one of a byte.
const NONE: u32 = u32::MAX;
/// Bytes of a sector.
pub(crate) const SECTOR: u64 = 32;

/// Passes of a load or store of `width` bytes a lane. Lanes go in groups of 128 bytes (all, halves, quarters);
/// neighbouring groups share a pass where no bank is asked for two words.
pub(crate) fn passes(address: &Lanes, mask: u32, width: u32) -> u32 {
    if !address.knows(mask) || mask == 0 {
        return (width / 4).max(1);
    }
    let words = (width / 4).max(1);
    let group = (LANES as u32 / words).max(1) as usize;
    let (mut total, mut shares) = (0, false);
    // The word that each bank gives in the pass that is open.
    let mut open = [NONE; BANKS];
    for first in (0..LANES).step_by(group) {
        let mut asked = [NONE; BANKS];
        let mut more: Vec<u32> = Vec::new();
        let mut any = false;
        for lane in (first..first + group).filter(|lane| mask >> lane & 1 == 1) {
            let Some(at) = address.lane(lane) else { continue };
            any = true;
            for word in (0..words).map(|word| (at + 4 * word) / 4) {
                let bank = &mut asked[word as usize % BANKS];
                match *bank {
                    NONE => *bank = word,
                    held if held == word || more.contains(&word) => {}
                    _ => more.push(word),
                }
            }
        }
        if !any {
            continue;
        }
        let fits = |(open, asked): (&u32, &u32)| *open == NONE || *asked == NONE || open == asked;
        if shares && more.is_empty() && open.iter().zip(&asked).all(fits) {
            for (open, asked) in open.iter_mut().zip(&asked).filter(|(open, _)| **open == NONE) {
                *open = *asked;
            }
            continue;
        }
        let mut depth = [0u32; BANKS];
        more.iter().for_each(|word| depth[*word as usize % BANKS] += 1);
        total += 1 + depth.into_iter().max().unwrap_or(0);
        (open, shares) = (asked, more.is_empty());
    }
    total.max(1)
}

/// Passes of a matrix load or store of `count` tiles: eight lanes give the 16-byte rows of each.
pub(crate) fn tile_passes(address: &Lanes, count: u32) -> u32 {
    let mut total = 0;
    for tile in 0..count as usize {
        let mut asked: [Vec<u32>; BANKS / 4] = Default::default();
        for lane in 8 * tile..8 * tile + 8 {
            let Some(at) = address.lane(lane) else { return count };
            let bank = &mut asked[at as usize / 16 % 8];
            if !bank.contains(&(at / 16)) {
                bank.push(at / 16);
            }
        }
        total += asked.iter().map(Vec::len).max().unwrap_or(1) as u32;
    }
    total
}

/// The sectors that lanes of a mask touch, in order, each once; none where an address is unknown.
pub(crate) fn sectors(low: &Lanes, high: &Lanes, offset: i64, mask: u32, width: u32) -> Option<Vec<u64>> {
    if !low.knows(mask) || !high.knows(mask) {
        return None;
    }
    let mut touched = Vec::with_capacity(8);
    for lane in (0..LANES).filter(|lane| mask >> lane & 1 == 1) {
        let at = u64::from(low.lane(lane)?) | u64::from(high.lane(lane)?) << 32;
        let at = at.wrapping_add_signed(offset);
        let last = at.wrapping_add(u64::from(width.max(1)) - 1) / SECTOR;
        let mut sector = at / SECTOR;
        while sector <= last {
            if touched.last() != Some(&sector) {
                touched.push(sector);
            }
            sector += 1;
        }
    }
    touched.sort_unstable();
    touched.dedup();
    Some(touched)
}

#[cfg(test)]
mod tests {
    use super::super::lanes::ALL;
    use super::*;

    #[test]
    fn passes_are_the_deepest_bank_and_broadcasts_share_them() {
        let at = |f: fn(usize) -> u32| Lanes::each(f);
        assert_eq!(passes(&at(|lane| 4 * lane as u32), ALL, 4), 1);
        assert_eq!(passes(&at(|lane| 8 * lane as u32), ALL, 4), 2);
        assert_eq!(passes(&at(|lane| 128 * lane as u32), ALL, 4), 32);
        assert_eq!(passes(&at(|_| 64), ALL, 4), 1);
        assert_eq!(passes(&at(|lane| 16 * lane as u32), ALL, 16), 4);
        // Every quarter reads the same 128 bytes: one pass, not four.
        assert_eq!(passes(&at(|lane| 16 * (lane as u32 % 8)), ALL, 16), 1);
        assert_eq!(passes(&at(|lane| 8 * (lane as u32 % 16)), ALL, 8), 1);
    }

    #[test]
    fn tiles_conflict_where_rows_share_a_column_of_banks() {
        assert_eq!(tile_passes(&Lanes::each(|lane| 16 * lane as u32), 4), 4);
        assert_eq!(tile_passes(&Lanes::each(|lane| 128 * lane as u32), 4), 32);
    }

    #[test]
    fn sectors_are_counted_once() {
        let zero = Lanes::splat(0);
        let count = |f: fn(usize) -> u32, width| sectors(&Lanes::each(f), &zero, 0, ALL, width).map(|all| all.len());
        assert_eq!(count(|lane| 4 * lane as u32, 4), Some(4));
        assert_eq!(count(|lane| 16 * lane as u32, 16), Some(16));
        assert_eq!(count(|lane| 256 * lane as u32, 4), Some(32));
        assert_eq!(sectors(&Lanes::UNKNOWN, &zero, 0, 1, 4), None);
    }
}
