-- one
SELECT /* $9 */ '$8', $tag$ $7 $tag$, $1 -- $6