package automaton

// Limits on what is accepted. They keep parsing and compiling any text below
// 50 ms and 16 MiB, and one step below 50 ms whatever the arguments are.
const (
	MaxText      = 64 << 10 // bytes of one text
	MaxAutomata  = 64       // automata in one text
	MaxNesting   = 64       // groups, objects and lists inside each other
	MaxStates    = 4096     // states of one machine
	MaxRepeat    = MaxStates
	MaxName      = 64   // bytes of a command, automaton or capture name
	MaxParts     = 128  // parts of one text, imported ones included
	MaxImports   = 8    // imports inside each other
	MaxCaptures  = 16   // names of captures in one text
	MaxPatterns  = 64   // globs and regular expressions in one text
	MaxPattern   = 256  // bytes of a glob or regular expression
	MaxSubject   = 1024 // bytes of an argument that is held against one
	MaxCaptured  = 4096 // bytes of a captured value, as JSON
	maxRegexp    = 256  // instructions of one regular expression
	maxBindings  = 64   // distinct sets of captured values a run may hold
	maxThreads   = 2 * MaxStates
	maxStepWork  = 1 << 20
	maxDeadlineS = 24 * 60 * 60
)
