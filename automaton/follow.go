package automaton

// dfa returns the deterministic machine of the part that the run is in.
func (r *Run) dfa() *dfa {
	if r.aborted {
		return r.m.det.abort
	}
	return r.m.det.body
}

// follow returns where a deterministic machine goes with one hypercall, or
// dead. It asks the predicates of the present state only, and allocates
// nothing.
func (r *Run) follow(name int32, args map[string]any) int32 {
	d := r.dfa()
	r.matcher.work = maxStepWork
	node := d.root(r.at, name)
	for isBranch(node) {
		t := &d.tests[node]
		node = t.no
		if r.matcher.object(r.m.letters.preds[t.pattern], args, nil) {
			node = t.yes
		}
	}
	if isLeaf(node) {
		return leafOf(node)
	}
	return dead
}
