# Gives bash on a serial console the size of the terminal behind it, which a serial line
# does not carry. Before a prompt, "CSI 18 ; rows ; columns t" asks with the size that is set; uvbond
# answers "CSI 8 ; rows ; columns t" if its terminal has another one. The answer is a key
# to bash's line editor: nothing waits for it, and it takes nothing away that is typed. Other
# shells cannot do that, so they are left alone. Made by "uvbond vm create"; may be deleted.

case $- in *i*) ;; *) return 0 ;; esac
case ${BASH_VERSION-} in '' | [0-3].* | 4.[0-3].*) return 0 ;; esac # they cannot bind such keys
case $(tty 2>/dev/null) in /dev/ttyS* | /dev/ttyAMA* | /dev/hvc*) ;; *) return 0 ;; esac

_uvbond_size=$(stty size 2>/dev/null) || return 0
_uvbond_size=${_uvbond_size% *}';'${_uvbond_size#* }

_uvbond_size_ask() {
	local status=$?
	case :$SHELLOPTS: in
	*:emacs:* | *:vi:*) read -t 0 </dev/tty || printf '\033[18;%st' "$_uvbond_size" ;; # unless lines wait that were typed ahead
	esac >/dev/tty 2>/dev/null
	return $status
}

_uvbond_size_told() {
	local rows columns
	IFS=';' read -rs -t 1 -d t rows columns </dev/tty || return 0
	case ${rows:-x}${columns:-x} in *[!0-9]*) return 0 ;; esac
	stty rows "$rows" columns "$columns" </dev/tty 2>/dev/null || return 0
	_uvbond_size="$rows;$columns" LINES=$rows COLUMNS=$columns
}

for _uvbond_map in emacs vi-insert vi-command; do
	bind -m "$_uvbond_map" -x '"\e[8;": _uvbond_size_told' 2>/dev/null || break
done && case $(declare -p PROMPT_COMMAND 2>/dev/null) in
'declare -a'*) eval 'PROMPT_COMMAND=(_uvbond_size_ask "${PROMPT_COMMAND[@]}")' ;;
*) PROMPT_COMMAND="_uvbond_size_ask${PROMPT_COMMAND:+; $PROMPT_COMMAND}" ;;
esac
unset _uvbond_map
