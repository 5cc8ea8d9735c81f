package rfb

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/uvbond/uvbond/nearest"
)

// Key is one key of a keyboard.
type Key struct {
	symbol uint32 // X11 keysym, what RFB knows keys by (RFC 6143, 7.5.4)
	place  uint8  // scan code of set 1, with bit 7 for its E0 prefix: QEMU's "QEMU Extended Key Event"
}

var shift = Key{0xffe1, 0x2a}

// special are the keys that type nothing, or are not named by what they type. The
// first name of a line is QEMU's; then others in use, libvirt's without "KEY_" too.
var special = []struct {
	names string
	key   Key
}{
	{"ctrl control leftctrl ctrl_l control_l", Key{0xffe3, 0x1d}},
	{"ctrl_r rightctrl control_r", Key{0xffe4, 0x9d}},
	{"alt leftalt alt_l", Key{0xffe9, 0x38}},
	{"alt_r altgr rightalt", Key{0xffea, 0xb8}},
	{"shift leftshift shift_l", shift},
	{"shift_r rightshift", Key{0xffe2, 0x36}},
	{"meta_l meta super win leftmeta", Key{0xffeb, 0xdb}},
	{"meta_r rightmeta", Key{0xffec, 0xdc}},
	{"menu compose", Key{0xff67, 0xdd}},
	{"esc escape", Key{0xff1b, 0x01}},
	{"tab", Key{0xff09, 0x0f}},
	{"ret return enter", Key{0xff0d, 0x1c}},
	{"spc space", Key{' ', 0x39}},
	{"backspace", Key{0xff08, 0x0e}},
	{"insert ins", Key{0xff63, 0xd2}},
	{"delete del", Key{0xffff, 0xd3}},
	{"home", Key{0xff50, 0xc7}},
	{"end", Key{0xff57, 0xcf}},
	{"pgup pageup", Key{0xff55, 0xc9}},
	{"pgdn pagedown", Key{0xff56, 0xd1}},
	{"up", Key{0xff52, 0xc8}},
	{"down", Key{0xff54, 0xd0}},
	{"left", Key{0xff51, 0xcb}},
	{"right", Key{0xff53, 0xcd}},
	{"print", Key{0xff61, 0x54}},
	{"sysrq", Key{0xff15, 0x54}},
	{"pause", Key{0xff13, 0xc6}},
	{"caps_lock capslock", Key{0xffe5, 0x3a}},
	{"num_lock numlock", Key{0xff7f, 0x45}},
	{"scroll_lock scrolllock", Key{0xff14, 0x46}},
	{"f1", Key{0xffbe, 0x3b}},
	{"f2", Key{0xffbf, 0x3c}},
	{"f3", Key{0xffc0, 0x3d}},
	{"f4", Key{0xffc1, 0x3e}},
	{"f5", Key{0xffc2, 0x3f}},
	{"f6", Key{0xffc3, 0x40}},
	{"f7", Key{0xffc4, 0x41}},
	{"f8", Key{0xffc5, 0x42}},
	{"f9", Key{0xffc6, 0x43}},
	{"f10", Key{0xffc7, 0x44}},
	{"f11", Key{0xffc8, 0x57}},
	{"f12", Key{0xffc9, 0x58}},
	{"less 102nd", Key{'<', 0x56}},
	{"minus", Key{'-', 0x0c}},
	{"plus", Key{'+', 0x0d}},
	{"equal", Key{'=', 0x0d}},
	{"bracket_left leftbrace", Key{'[', 0x1a}},
	{"bracket_right rightbrace", Key{']', 0x1b}},
	{"semicolon", Key{';', 0x27}},
	{"apostrophe", Key{'\'', 0x28}},
	{"grave_accent grave", Key{'`', 0x29}},
	{"backslash", Key{'\\', 0x2b}},
	{"comma", Key{',', 0x33}},
	{"dot", Key{'.', 0x34}},
	{"slash", Key{'/', 0x35}},
	{"kp_0 kp0", Key{0xffb0, 0x52}},
	{"kp_1 kp1", Key{0xffb1, 0x4f}},
	{"kp_2 kp2", Key{0xffb2, 0x50}},
	{"kp_3 kp3", Key{0xffb3, 0x51}},
	{"kp_4 kp4", Key{0xffb4, 0x4b}},
	{"kp_5 kp5", Key{0xffb5, 0x4c}},
	{"kp_6 kp6", Key{0xffb6, 0x4d}},
	{"kp_7 kp7", Key{0xffb7, 0x47}},
	{"kp_8 kp8", Key{0xffb8, 0x48}},
	{"kp_9 kp9", Key{0xffb9, 0x49}},
	{"kp_decimal kpdot", Key{0xffae, 0x53}},
	{"kp_divide kpslash", Key{0xffaf, 0xb5}},
	{"kp_multiply kpasterisk", Key{0xffaa, 0x37}},
	{"kp_subtract kpminus", Key{0xffad, 0x4a}},
	{"kp_add kpplus", Key{0xffab, 0x4e}},
	{"kp_enter kpenter", Key{0xff8d, 0x9c}},
}

// us is the part of a US keyboard that types: the scan code of the first key of each
// row, and what its keys type without and with Shift.
var us = []struct {
	first          uint8
	plain, shifted string
}{
	{0x02, "1234567890-=", "!@#$%^&*()_+"},
	{0x10, "qwertyuiop[]", "QWERTYUIOP{}"},
	{0x1e, "asdfghjkl;'`", "ASDFGHJKL:\"~"},
	{0x2b, "\\zxcvbnm,./", "|ZXCVBNM<>?"},
	{0x39, " ", ""},
}

// stroke is how a US keyboard types one character.
type stroke struct {
	key   Key
	shift bool
}

var (
	byName = map[string]Key{}
	byRune = map[rune]stroke{}
)

func init() {
	for _, row := range us {
		for i, r := range row.plain {
			byRune[r] = stroke{Key{uint32(r), row.first + uint8(i)}, false}
			if r != ' ' && r != '-' && r != '+' {
				byName[string(r)] = byRune[r].key
			}
		}
		for i, r := range row.shifted {
			byRune[r] = stroke{Key{uint32(r), row.first + uint8(i)}, true}
		}
	}
	for _, s := range special {
		for name := range strings.FieldsSeq(s.names) {
			byName[name] = s.key
		}
	}
	byRune['\n'] = stroke{byName["ret"], false}
	byRune['\t'] = stroke{byName["tab"], false}
}

// KeyNames lists the names that ParseKeys knows, sorted: QEMU's own names of the
// special keys, and what the others type without Shift.
func KeyNames() []string {
	var names []string
	for _, s := range special {
		name, _, _ := strings.Cut(s.names, " ")
		names = append(names, name)
	}
	for _, row := range us {
		for _, r := range row.plain {
			if s := string(r); (r >= 'a' && r <= 'z') || (r >= '0' && r <= '9') {
				names = append(names, s)
			}
		}
	}
	slices.Sort(names)
	return names
}

// KeyError is a name of a combination that is no key. Near is the name that was
// probably meant, or empty.
type KeyError struct{ Name, Near string }

func (e *KeyError) Error() string {
	if e.Name == "" {
		return "the name of a key is missing"
	}
	return fmt.Sprintf("%q is not a key", clean(e.Name))
}

// MaxCombination is how many keys ParseKeys takes to be held together.
const MaxCombination = 8

// ParseKeys reads a combination such as "ctrl-alt-delete": names of keys, in the order
// in which they go down. QEMU's and libvirt's names are known, in any case; they
// stand apart by "-" or "+". The error is a *KeyError when a name is the trouble.
func ParseKeys(combination string) ([]Key, error) {
	var keys []Key
	for name := range strings.SplitSeq(strings.ReplaceAll(combination, "+", "-"), "-") {
		k, ok := byName[strings.TrimPrefix(strings.ToLower(name), "key_")]
		if !ok {
			return nil, &KeyError{Name: name, Near: near(strings.ToLower(name))}
		}
		if slices.Contains(keys, k) {
			return nil, fmt.Errorf("%q holds %s twice", clean(combination), clean(name))
		}
		keys = append(keys, k)
	}
	if len(keys) > MaxCombination {
		return nil, fmt.Errorf("%d keys are too many to hold at once: at most %d", len(keys), MaxCombination)
	}
	return keys, nil
}

// near returns the known name that was most likely meant, or "". For a character that
// is typed with Shift that is the combination.
func near(name string) string {
	if r, size := utf8.DecodeRuneInString(name); size == len(name) && byRune[r].shift {
		for _, row := range us {
			if i := strings.IndexRune(row.shifted, r); i >= 0 {
				return "shift-" + strings.NewReplacer("-", "minus").Replace(row.plain[i:i+1])
			}
		}
	}
	var known []string
	for _, s := range special {
		known = append(known, strings.Fields(s.names)...)
	}
	return nearest.Name(name, known)
}
