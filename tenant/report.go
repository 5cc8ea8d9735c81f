package tenant

// Reporter shows how far a long operation is. Implementations must not write
// to standard output.
type Reporter interface {
	// Begin starts a bar of total bytes, or a spinner when total is 0.
	Begin(label string, total int64)
	Update(done int64)
	// End takes the bar away. It may be called without Begin.
	End()
	// Note shows one line.
	Note(text string)
}

// Quiet reports nothing.
type Quiet struct{}

// Begin does nothing.
func (Quiet) Begin(string, int64) {}

// Update does nothing.
func (Quiet) Update(int64) {}

// End does nothing.
func (Quiet) End() {}

// Note does nothing.
func (Quiet) Note(string) {}
