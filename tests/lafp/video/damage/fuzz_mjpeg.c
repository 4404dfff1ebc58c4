/* Parses packets of a file, each as it is and with bytes overwritten, in buffers of its exact size.
 *
 * fuzz_mjpeg FILE ROUNDS, where FILE holds (uint32 size, bytes) for each packet.
 */

#include <stdio.h>

#include "mjpeg_entropy.c"

static uint32_t seed = 1;

static uint32_t draw(uint32_t below) {
    seed = seed * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)seed * below >> 32);
}

int main(int argc, char **argv) {
    int num_damaged = 0, num_noticed = 0;
    if (argc < 3) return 2;
    for (int round = 0; round < atoi(argv[2]); round++) {
        FILE *file = fopen(argv[1], "rb");
        Mjpeg *jpeg = lafp_mjpeg_new(); /* keeps broken tables for the next packet */
        uint32_t size;
        if (!file || !jpeg) return 2;
        while (fread(&size, 4, 1, file) == 1) {
            uint32_t kept = round && !draw(8) ? draw(size + 1) : size;
            uint8_t *data = malloc(size), *exact = malloc(kept ? kept : 1);
            if (!data || !exact || fread(data, 1, size, file) != size) return 2;
            for (uint32_t i = round ? draw(8) : 0; i > 0; i--) /* headers are most of 700 bytes */
                data[draw(2) ? draw(size) : draw(size < 700 ? size : 700)] =
                    draw(4) ? (uint8_t)draw(256) : 0xFF;
            memcpy(exact, data, kept);
            int signs = lafp_mjpeg_parse(jpeg, exact, kept);
            num_damaged += round > 0, num_noticed += signs > 0;
            if (!round && signs) return 3;
            free(data), free(exact);
        }
        fclose(file);
        lafp_mjpeg_free(jpeg);
    }
    printf("%d %d\n", num_damaged, num_noticed);
    return 0;
}
