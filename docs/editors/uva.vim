" Vim syntax of UVBond's hypercall automata (docs/automata.md).
" Put it into ~/.vim/syntax/uva.vim and, into ~/.vim/ftdetect/uva.vim:
"   autocmd BufRead,BufNewFile *.uva setfiletype uva
if exists("b:current_syntax")
  finish
endif

syntax iskeyword @,48-57,_,-,.
syntax keyword uvaDefinition automaton part import as
syntax keyword uvaClause on abort deadline
syntax keyword uvaType any string integer number boolean object list
syntax keyword uvaPattern glob regexp
syntax keyword uvaConstant true false null
syntax match uvaComment "#.*$" contains=@Spell
syntax region uvaString start=+"+ skip=+\\.+ end=+"+ oneline
syntax match uvaCapture "\$[A-Za-z_][A-Za-z0-9_.-]*"
syntax match uvaPart "@[A-Za-z_][A-Za-z0-9_.-]*"
syntax match uvaNumber "-\?\<[0-9]\+\(B\|KiB\|MiB\|GiB\|TiB\|ms\|s\|min\|h\)\?\>"
syntax match uvaOperator "[|&*+?]\|\.\.\.\?"
syntax match uvaKey "\<[A-Za-z_][A-Za-z0-9_.-]*?\?\s*:"me=e-1

highlight default link uvaDefinition Keyword
highlight default link uvaClause Statement
highlight default link uvaType Type
highlight default link uvaPattern Function
highlight default link uvaConstant Constant
highlight default link uvaComment Comment
highlight default link uvaString String
highlight default link uvaCapture Identifier
highlight default link uvaPart Include
highlight default link uvaNumber Number
highlight default link uvaOperator Operator
highlight default link uvaKey Label

let b:current_syntax = "uva"
