use std::any::type_name;

use super::*;

/// Checks every operation of an instruction set against plain f32 arithmetic.
struct Check;

impl<S: Simd> SimdOp<S> for Check {
    type Output = ();
    #[inline(always)]
    fn eval(self, s: S) {
        let a: Vec<f32> = (0..S::LANES).map(|i| i as f32 - 3.0).collect();
        let b: Vec<f32> = (0..S::LANES).map(|i| 2.0 * i as f32 + 0.5).collect();
        let values = |v: S::F32| {
            let mut out = vec![0.0; S::LANES];
            // SAFETY: out has LANES elements.
            unsafe { s.store(out.as_mut_ptr(), v) };
            out
        };
        // SAFETY: a and b have LANES elements.
        let (va, vb) = unsafe { (s.load(a.as_ptr()), s.load(b.as_ptr())) };
        let each =
            |f: &dyn Fn(f32, f32) -> f32| -> Vec<f32> { a.iter().zip(&b).map(|(&x, &y)| f(x, y)).collect() };
        assert_eq!(values(s.add(va, vb)), each(&|x, y| x + y));
        assert_eq!(values(s.sub(va, vb)), each(&|x, y| x - y));
        assert_eq!(values(s.mul(va, vb)), each(&|x, y| x * y));
        assert_eq!(values(s.mul_add(va, vb, s.splat(1.0))), each(&|x, y| x * y + 1.0));
        assert_eq!(values(s.clamp(va, s.splat(-1.0), s.splat(2.0))), each(&|x, _| x.clamp(-1.0, 2.0)));
        let nan = s.clamp(s.splat(f32::NAN), s.splat(0.0), s.splat(1.0));
        assert!(values(nan).iter().all(|x| x.is_nan()));
        assert_eq!(values(s.max(va, vb)), each(&f32::max));
        assert_eq!(values(s.max_of_numbers(va, vb)), each(&f32::max));
        for lane in 0..S::LANES {
            let mut values = a.clone();
            values[lane] = f32::NAN;
            // SAFETY: there are LANES values.
            let found = unsafe { s.has_nan(s.load(values.as_ptr())) };
            assert!(found && !s.has_nan(va), "{} {lane}", type_name::<S>());
        }
        let none = s.splat(f32::NAN);
        for v in [s.max(va, none), s.max(none, va)] {
            assert!(values(v).iter().all(|x| x.is_nan()), "{}", type_name::<S>());
        }
        assert_eq!(values(s.div(va, vb)), each(&|x, y| x / y));
        let found = |(largest, place)| (values(largest), values(place));
        let (zero, one) = (s.splat(0.0), s.splat(1.0));
        let larger = each(&|x, y| f32::from(y > x));
        assert_eq!(found(s.larger((va, zero), vb, one)), (each(&f32::max), larger));
        // Equals and what comes after NaN change nothing; the first NaN is taken.
        assert_eq!(found(s.larger((va, zero), va, one)), (a.clone(), values(zero)), "{}", type_name::<S>());
        for value in [none, va] {
            let (largest, place) = found(s.larger((none, zero), value, one));
            assert!(largest.iter().all(|x| x.is_nan()) && place == values(zero), "{}", type_name::<S>());
        }
        let (largest, place) = found(s.larger((va, zero), none, one));
        assert!(largest.iter().all(|x| x.is_nan()) && place == values(one), "{}", type_name::<S>());
        assert_eq!(
            values(s.add_where_equal(va, vb, va, s.splat(-1.0))),
            each(&|x, y| if x == -1.0 { x + y } else { x })
        );
        assert_eq!(values(s.add_where_equal(va, none, va, vb)), a);
        let both: Vec<f32> = a.iter().chain(&b).copied().collect();
        let (even, odd) = s.unzip(va, vb);
        assert_eq!(values(even), both.iter().step_by(2).copied().collect::<Vec<_>>(), "{}", type_name::<S>());
        assert_eq!(values(odd), both[1..].iter().step_by(2).copied().collect::<Vec<_>>());
        let (mixed_even, mixed) = s.unzip_mixed(va, vb);
        assert_eq!(values(s.mixed(odd)), values(mixed), "{}", type_name::<S>());
        let (first, second) = s.zip_mixed(mixed_even, mixed);
        assert_eq!((values(first), values(second)), (a.clone(), b.clone()), "{}", type_name::<S>());
        for (skip, v) in [(1, s.in_order::<1>(mixed)), (2, s.in_order::<2>(mixed))] {
            let mut want = values(odd)[skip..].to_vec();
            want.resize(S::LANES, 0.0);
            assert_eq!(values(v), want, "{}", type_name::<S>());
        }
        assert_eq!(values(s.moved::<1>(va))[..S::LANES - 1], a[1..], "{}", type_name::<S>());
        assert_eq!(values(s.moved::<2>(va))[..S::LANES - 2], a[2..], "{}", type_name::<S>());
        for n in 0..=S::LANES {
            // SAFETY: n <= LANES elements are there to read and to write.
            let (loaded, stored) = unsafe {
                let mut stored = vec![7.0; S::LANES];
                s.store_partial(stored.as_mut_ptr(), va, n);
                (values(s.load_partial(a[..n].as_ptr(), n)), stored)
            };
            for i in 0..S::LANES {
                assert_eq!(loaded[i], if i < n { a[i] } else { 0.0 }, "{} load {n}", type_name::<S>());
                assert_eq!(stored[i], if i < n { a[i] } else { 7.0 }, "{} store {n}", type_name::<S>());
            }
        }
        for bits in (0..S::LANES as u32).flat_map(|lane| [1 << lane, 0b1011 << lane]) {
            // SAFETY: LANES elements are there to read.
            let loaded =
                values(unsafe { s.load_masked(a.as_ptr(), s.mask_of(bits & ((1 << S::LANES) - 1))) });
            // SAFETY: as above.
            let or =
                values(unsafe { s.load_masked_or(a.as_ptr(), s.mask_of(bits & ((1 << S::LANES) - 1)), vb) });
            for i in 0..S::LANES {
                let is_loaded = bits >> i & 1 == 1;
                assert_eq!(loaded[i], if is_loaded { a[i] } else { 0.0 }, "{}", type_name::<S>());
                assert_eq!(or[i], if is_loaded { a[i] } else { b[i] }, "{}", type_name::<S>());
            }
        }
        for (start, end) in
            (0..=S::LANES + 1).flat_map(|start| (0..=S::LANES + 1).map(move |end| (start, end)))
        {
            let mask = s.mask(start, end);
            // SAFETY: LANES elements are there to read.
            let loaded = values(unsafe { s.load_masked(a.as_ptr(), mask) });
            for i in 0..S::LANES {
                let on = (start..end).contains(&i);
                assert_eq!(loaded[i], if on { a[i] } else { 0.0 }, "{} {start}..{end}", type_name::<S>());
            }
        }
    }
}

#[test]
fn every_available_isa_computes_like_plain_arithmetic() {
    on_every_isa!(s => {
        s.vectorize(Check);
        s.half().vectorize(Check);
    });
}

/// What can be asked before there is a proof is what the proof says.
#[test]
fn sizes_of_vectors_and_tiles_agree() {
    fn sizes<S: Simd>(_: S) -> (usize, usize) {
        (S::LANES, S::NR)
    }
    for isa in Isa::ALL {
        if let Ok(token) = isa.token() {
            assert_eq!(with_token!(token, s => sizes(s)), (isa.lanes(), isa.columns()), "{isa}");
        }
    }
}

#[test]
fn names_round_trip() {
    for isa in Isa::ALL {
        assert_eq!(Isa::from_name(isa.name()), Some(isa));
    }
    assert_eq!(Isa::from_name("sse9"), None);
}
