/* Parses packets of a file, each as it is and with bytes overwritten, in buffers of its exact size.
 *
 * fuzz_vp9 FILE ROUNDS, where FILE holds (uint32 size, bytes) for each packet.
 */

#include <stdio.h>

#include "vp9_entropy.c"

static uint32_t seed = 1;

static uint32_t draw(uint32_t below) {
    seed = seed * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)seed * below >> 32);
}

/* Most damage makes the parser wait for a key frame, but what follows should be tried too. */
static int parse(Vp9 *vp9, const uint8_t *data, size_t size) {
    Ends ends;
    if (draw(2)) vp9->is_lost = 0;
    if (lafp_vp9_parse(vp9, data, size, &ends)) return 0;
    return !ends.count || (ends.fewest >= 8 && ends.most <= 24 && !ends.rest);
}

int main(int argc, char **argv) {
    int num_damaged = 0, num_noticed = 0;
    if (argc < 3) return 2;
    for (int round = 0; round < atoi(argv[2]); round++) {
        FILE *file = fopen(argv[1], "rb");
        Vp9 *vp9 = lafp_vp9_new(1 << 18);
        uint32_t size;
        if (!file || !vp9) return 2;
        while (fread(&size, 4, 1, file) == 1) {
            uint32_t kept = round && !draw(8) ? draw(size + 1) : size;
            uint8_t *data = malloc(size), *exact = malloc(kept ? kept : 1);
            if (!data || !exact || fread(data, 1, size, file) != size) return 2;
            for (uint32_t i = round ? draw(8) : 0; i > 0; i--)
                data[draw(2) ? draw(size) : draw(size < 40 ? size : 40)] = (uint8_t)draw(256);
            memcpy(exact, data, kept);
            int is_sound = parse(vp9, exact, kept);
            num_damaged += round > 0, num_noticed += !is_sound;
            if (!round && !is_sound) return 3;
            free(data), free(exact);
        }
        fclose(file);
        lafp_vp9_free(vp9);
    }
    printf("%d %d\n", num_damaged, num_noticed);
    return 0;
}
